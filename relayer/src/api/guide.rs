//! Prompts and resources that both servers of the Model Context Protocol offer: `stipend mcp` and `/mcp`.

use rmcp::{
    ErrorData,
    model::{
        GetPromptRequestParams, GetPromptResult, Prompt, PromptArgument, PromptMessage, ReadResourceResult, Resource,
        ResourceContents, ResourceTemplate, Role,
    },
};
use serde::Serialize;
use serde_json::json;
use stipend_core::{Amount, MandateId};

struct Task {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    arguments: &'static [(&'static str, &'static str)],
    text: &'static str,
}

const TASKS: [Task; 3] = [
    Task {
        name: "ask_for_a_budget",
        title: "Ask for a budget",
        description: "Ask the operator for a mandate that fits a task",
        arguments: &[("task", "What is to be bought or paid"), ("amount", "How much it may cost, in USDC")],
        text: "Ask for a budget of {amount} USDC for this task: {task}. Choose the shortest duration and the lowest \
               per_payment that fit, list the payees if they are known, call payment_request once, and tell me the \
               command that approves it.",
    },
    Task {
        name: "pay_an_invoice",
        title: "Pay an invoice",
        description: "Pay an invoice in USDC, once",
        arguments: &[
            ("payee", "The address to pay"),
            ("amount", "How much, in USDC"),
            ("invoice", "The invoice's number"),
        ],
        text: "Pay {amount} USDC to {payee} for the invoice {invoice}, with that number as the reference. Check with \
               payment_explain first. If it is refused, tell me why and what would be accepted; do not try another way.",
    },
    Task {
        name: "buy_with_a_card",
        title: "Buy with a card",
        description: "Make a card for one purchase at a merchant",
        arguments: &[("purchase", "What is bought, and where"), ("amount", "What it costs at most, in US dollars")],
        text: "Make a card over {amount} USD for this purchase: {purchase}, with the purchase as the reference. Wait \
               until it is active, use its number in the merchant's form alone, and tell me when it was charged.",
    },
];

/// The prompts.
#[must_use]
pub fn prompts() -> Vec<Prompt> {
    TASKS
        .iter()
        .map(|task| {
            let arguments = task.arguments.iter().map(|(name, description)| {
                PromptArgument::new(*name).with_description(*description).with_required(true)
            });
            Prompt::new(task.name, Some(task.description), Some(arguments.collect())).with_title(task.title)
        })
        .collect()
}

/// A prompt with its arguments; `named` names tools as the host sees them.
///
/// # Errors
/// If there is none of this name, or an argument is missing.
pub fn prompt(request: &GetPromptRequestParams, spoken: impl Fn(&str) -> String) -> Result<GetPromptResult, ErrorData> {
    let task = TASKS.iter().find(|task| task.name == request.name);
    let task = task.ok_or_else(|| ErrorData::invalid_params(format!("there is no prompt {:?}", request.name), None))?;
    let mut text = spoken(task.text);
    for (name, _) in task.arguments {
        let given = request.arguments.as_ref().and_then(|arguments| arguments.get(*name));
        let given = given.and_then(|value| value.as_str());
        let given = given.ok_or_else(|| ErrorData::invalid_params(format!("the argument {name} is missing"), None))?;
        text = text.replace(&format!("{{{name}}}"), given);
    }
    Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]).with_description(task.description))
}

/// A mandate, and its trail.
#[must_use]
pub fn resource_templates() -> Vec<ResourceTemplate> {
    [
        ("mandate", "stipend://mandates/{mandate}", "A mandate"),
        ("audit", "stipend://mandates/{mandate}/audit", "Its latest events"),
    ]
    .into_iter()
    .map(|(name, uri, description)| {
        ResourceTemplate::new(uri, name).with_description(description).with_mime_type("application/json")
    })
    .collect()
}

/// A mandate and its trail as resources.
#[must_use]
pub fn resources(id: MandateId, short: &str, state: &str, available: Amount) -> [Resource; 2] {
    let uri = format!("stipend://mandates/{id}");
    [
        Resource::new(uri.clone(), short)
            .with_description(format!("A mandate: {state}, {available} USDC available"))
            .with_mime_type("application/json"),
        Resource::new(format!("{uri}/audit"), format!("{short} audit"))
            .with_description("What happened to this mandate lately")
            .with_mime_type("application/json"),
    ]
}

/// The mandate that a resource is of, and whether it is its trail.
#[must_use]
pub fn resource(uri: &str) -> Option<(MandateId, bool)> {
    let path = uri.strip_prefix("stipend://mandates/")?;
    let (id, is_audit) = path.strip_suffix("/audit").map_or((path, false), |id| (id, true));
    Some((id.parse().ok()?, is_audit))
}

/// The failure to read a resource that is not there.
#[must_use]
pub fn unknown_resource(uri: &str) -> ErrorData {
    ErrorData::resource_not_found(format!("there is no resource {uri:?}"), Some(json!({ "uri": uri })))
}

/// The contents of a resource.
///
/// # Errors
/// None for what is JSON.
pub fn contents<T: Serialize>(uri: &str, of: &T) -> Result<ReadResourceResult, ErrorData> {
    let text = serde_json::to_string(of).map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type("application/json")]))
}
