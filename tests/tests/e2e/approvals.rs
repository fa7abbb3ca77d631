//! One request, one cap: an approval by message that waits, and another one beside it.

use std::{fs, sync::Arc};

use alloy::{consensus::Transaction, providers::Provider, signers::local::PrivateKeySigner};
use alloy_primitives::{Address, B256, U256, keccak256};
use eyre::{OptionExt, Result, bail};
use stipend_client::{
    Client, Error, Pay,
    chain::{Chain, ChainError, Escrow},
};
use stipend_core::{
    Code, MandateId, Terms,
    api::{MandateRequest, NewMandate, RequestState},
    policy::MandateState,
};
use stipend_e2e::{Settings, World, balance, eventually};

use crate::{asking, code, payee, usdc};

/// Where a proxy has its implementation (ERC-1967).
const IMPLEMENTATION: &str = "0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc";

/// How many slots of the token are looked at for its name.
const SLOTS: u64 = 10;

/// An ether, in wei.
const ETHER: u128 = 1_000_000_000_000_000_000;

/// An approval by message that the relayer has stored, and can't send since its submitter is out of ETH.
struct Waiting {
    world: World,
    agent: Client,
    operator: Client,
    request: MandateRequest,
    approval: NewMandate,
    id: MandateId,
}

impl Waiting {
    async fn start(name: &str) -> Result<Self> {
        // Deeper than any reorg here.
        let mut world = World::with(name, &Settings { finality: 8, ..Settings::default() }).await?;
        let (agent, operator) = (world.agent()?, world.operator()?);
        let request = agent.request_mandate(&asking("10")?).await?.object;
        let approval = approval(&world, &request, 0).await?;
        let id = world.escrow.domain().mandate_id(&approval.terms)?;

        // It dies between the commit and the answer.
        world.relayer.begin_to_die_at("approval.committed")?;
        world.relayer.ready().await?;
        assert!(operator.open_mandate(&approval).await.is_err());
        eventually("it dies", async || Ok(world.relayer.has_died()?.then_some(()))).await?;
        world.anvil.set_balance(world.keys.submitter.address(), 0).await?;
        world.relayer.restart_halted().await?;
        assert_eq!(operator.mandate(id).await?.state, MandateState::Opening);
        Ok(Self { world, agent, operator, request, approval, id })
    }

    /// Its submitter has ETH again, and can send.
    async fn goes_on(&mut self) -> Result<()> {
        self.world.anvil.set_balance(self.world.keys.submitter.address(), ETHER).await?;
        self.world.anvil.mine(1).await?;
        self.world.relayer.ready().await
    }
}

/// The operator's message for this request, whose terms start a little later than they could.
async fn approval(world: &World, request: &MandateRequest, later: u64) -> Result<NewMandate> {
    approval_by(world, &world.keys.operator, request, later).await
}

async fn approval_by(
    world: &World,
    operator: &PrivateKeySigner,
    request: &MandateRequest,
    later: u64,
) -> Result<NewMandate> {
    let start = world.time().await? + later;
    let terms: Terms = request.terms(operator.address(), world.keys.guardian.address(), start);
    let authorization = world.escrow.authorize(operator, &terms, start + 3_600)?;
    world.secrets.signature("the operator's authorization", &authorization.signature);
    Ok(NewMandate { request: request.id, terms, authorization })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_approval_ends_when_its_request_is_answered() -> Result<()> {
    let mut waiting = Waiting::start("approval-waits").await?;
    let (id, request) = (waiting.id, waiting.request.clone());
    let funds = waiting.world.escrow.balance_of(waiting.operator.address()).await?;
    waiting.world.anvil.pass(5).await?;
    let other = waiting.world.approve(&request).await?;
    assert_ne!(other, id);
    waiting.world.mandate_in(&waiting.agent, other, MandateState::Open).await?;
    waiting.goes_on().await?;

    // What is accepted later is sent, and that is not.
    let Waiting { world, agent, operator, .. } = &waiting;
    let payment = world.pay(agent, &Pay::new(other, payee(1), usdc("1")?)).await??.object;
    world.settled(agent, &payment).await?;
    assert!(!world.escrow.mandate_of(id).await?.known);
    let given_up = agent.mandate(id).await?;
    assert_eq!((given_up.state, given_up.opening_until), (MandateState::Opening, None));
    let trail = agent.audit(Some(id), 0, None).await?.data;
    let kinds: Vec<_> = trail.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["mandate.approved", "mandate.opening_given_up"]);
    assert_eq!(trail[1].data["answer"], other.to_string());
    assert_eq!(code(operator.open_mandate(&waiting.approval).await), Code::AlreadyApproved);
    let left = world.escrow.balance_of(operator.address()).await?;
    assert_eq!(funds.checked_sub(left), Some(usdc("10")?), "one cap");
    balance(world, agent, &[other]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_an_approval_that_waits_opens_the_very_mandate() -> Result<()> {
    for permit in [false, true] {
        let mut waiting = Waiting::start("approval-sent-by-its-operator").await?;
        let funds = waiting.world.escrow.balance_of(waiting.operator.address()).await?;
        waiting.world.anvil.pass(5).await?;
        let request = waiting.request.id.to_string();
        let mut arguments = vec!["mandate", "approve", &request, "--yes"];
        arguments.extend(permit.then_some("--permit"));
        let said = waiting.world.stipend(&waiting.world.keys.operator, &arguments)?;
        let mandate = said.unwrap_or_else(|failed| panic!("{failed:?}"));
        assert_eq!((&mandate["id"], &mandate["state"]), (&waiting.id.to_string().into(), &"open".into()));
        waiting.goes_on().await?;

        let Waiting { world, agent, operator, id, .. } = &waiting;
        let payment = world.pay(agent, &Pay::new(*id, payee(1), usdc("1")?)).await??.object;
        world.settled(agent, &payment).await?;
        let left = world.escrow.balance_of(operator.address()).await?;
        assert_eq!(funds.checked_sub(left), Some(usdc("10")?), "one cap");
        balance(world, agent, &[*id]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sent_approval_is_canceled_when_its_request_is_answered() -> Result<()> {
    let world = World::with("approval-sent", &Settings { finality: 8, ..Settings::default() }).await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    let (anvil, by) = (&world.anvil, &world.keys.operator);
    let request = agent.request_mandate(&asking("10")?).await?.object;
    world.escrow.allow(by, usdc("10")?).await?;
    world.followed(&agent).await?;
    let funds = world.escrow.balance_of(operator.address()).await?;

    // It is signed, and the node forgets it before a block has it.
    anvil.automine(false).await?;
    let first = approval(&world, &request, 0).await?;
    let id = operator.open_mandate(&first).await?.object.id;
    anvil.drop_transaction(anvil.arrived().await?).await?;

    // The operator can't approve twice by message. Others learn no more than that it is under way.
    let detail = |refused: Result<_, Error>| match refused {
        Err(Error::Problem(problem)) if problem.code == Code::ApprovalUnderWay => problem.detail,
        other => panic!("{other:?}"),
    };
    let second = approval(&world, &request, 1).await?;
    let refused = detail(operator.open_mandate(&second).await);
    assert!(refused.contains(&format!("yours, of {id}, is sent until")), "{refused}");
    let stranger = approval_by(&world, &world.keys.gasless, &request, 0).await?;
    let refused = detail(world.client(&world.keys.gasless)?.open_mandate(&stranger).await);
    assert!(refused.contains("another operator's is sent until") && !refused.contains(&id.to_string()), "{refused}");
    assert!(operator.open_mandate(&first).await?.replayed);

    let (opened, mined) = tokio::join!(world.escrow.open(by, &second.terms), async {
        anvil.arrived().await?;
        anvil.mine(1).await
    });
    opened?;
    mined?;
    let other = world.escrow.domain().mandate_id(&second.terms)?;
    world.mandate_in(&agent, other, MandateState::Open).await?;

    // Its nonce is used for nothing.
    let cancel = anvil.arrived().await?;
    let cancel = anvil.provider().get_transaction_by_hash(cancel).await?.ok_or_eyre("not there")?;
    assert_eq!((cancel.to(), cancel.input().len()), (Some(world.keys.submitter.address()), 0), "{cancel:?}");
    anvil.automine(true).await?;
    anvil.pass(5).await?;
    world.followed(&agent).await?;
    let payment = world.pay(&agent, &Pay::new(other, payee(1), usdc("1")?)).await??.object;
    world.settled(&agent, &payment).await?;
    assert!(!world.escrow.mandate_of(id).await?.known);
    let left = world.escrow.balance_of(operator.address()).await?;
    assert_eq!(funds.checked_sub(left), Some(usdc("10")?), "one cap");
    balance(&world, &agent, &[other]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorged_answer_revives_no_approval() -> Result<()> {
    let mut waiting = Waiting::start("approval-and-reorg").await?;
    let (id, request) = (waiting.id, waiting.request.clone());
    let funds = waiting.world.escrow.balance_of(waiting.operator.address()).await?;
    waiting.world.anvil.pass(5).await?;
    let other = waiting.world.approve(&request).await?;
    waiting.world.mandate_in(&waiting.agent, other, MandateState::Open).await?;
    // The allowance stays; the opening is gone, and its transaction with it.
    waiting.world.anvil.reorg(1).await?;
    waiting.world.mandate_in(&waiting.agent, other, MandateState::Opening).await?;
    assert_eq!(waiting.agent.mandate_request(request.id).await?.state, RequestState::Pending);
    waiting.goes_on().await?;

    let Waiting { world, agent, operator, .. } = &waiting;
    world.anvil.mine(3).await?;
    world.followed(agent).await?;
    let anew = approval(world, &request, 1).await?;
    let anew = operator.open_mandate(&anew).await?.object.id;
    assert!(anew != id && anew != other);
    eventually("it is open", async || {
        world.anvil.mine(1).await?;
        Ok((agent.mandate(anew).await?.state == MandateState::Open).then_some(()))
    })
    .await?;
    assert_eq!(agent.mandate_request(request.id).await?.mandate, Some(anew));
    world.anvil.mine(10).await?;
    world.followed(agent).await?;
    assert!(!world.escrow.mandate_of(id).await?.known);
    let left = world.escrow.balance_of(operator.address()).await?;
    assert_eq!(funds.checked_sub(left), Some(usdc("10")?), "one cap");
    balance(world, agent, &[anew]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_ends_when_its_operator_revokes_the_terms() -> Result<()> {
    let mut waiting = Waiting::start("approval-revoked").await?;
    let (id, request) = (waiting.id, waiting.request.clone());
    let funds = waiting.world.escrow.balance_of(waiting.operator.address()).await?;
    // By a transaction of its own, while the relayer can't send.
    let revoke = ["mandate", "revoke", &id.to_string(), "--yes"];
    let revoked = waiting.world.stipend(&waiting.world.keys.operator, &revoke)?;
    let revoked = revoked.unwrap_or_else(|failed| panic!("{failed:?}"));
    assert_eq!(revoked["returned"], "0.00");
    let ended = waiting.world.mandate_in(&waiting.agent, id, MandateState::Ended).await?;
    assert_eq!((ended.opened_tx, ended.opening_until), (None, None));
    assert!(ended.ended_tx.is_some());
    waiting.goes_on().await?;

    // What waited is not sent, nor taken again; and the request is free.
    let Waiting { world, agent, operator, approval: withdrawn, .. } = &waiting;
    let refused = operator.open_mandate(withdrawn).await;
    assert!(matches!(&refused, Err(Error::Problem(problem)) if problem.detail.contains("was revoked")), "{refused:?}");
    assert_eq!(code(refused), Code::OpenWouldFail);
    assert_eq!(agent.mandate_request(request.id).await?.state, RequestState::Pending);
    let anew = approval(world, &request, 1).await?;
    let anew = operator.open_mandate(&anew).await?.object.id;
    world.anvil.pass(5).await?;
    world.mandate_in(agent, anew, MandateState::Open).await?;
    let payment = world.pay(agent, &Pay::new(anew, payee(1), usdc("1")?)).await??.object;
    world.settled(agent, &payment).await?;

    let kinds: Vec<_> = agent.audit(Some(id), 0, None).await?.data.into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, ["mandate.approved", "mandate.opening_given_up", "mandate.revoked"]);
    let left = world.escrow.balance_of(operator.address()).await?;
    assert_eq!(funds.checked_sub(left), Some(usdc("10")?), "one cap");
    let told = world.stipend(&world.keys.operator, &["balance", "--mandate", &id.to_string()])?;
    let told = told.unwrap_or_else(|failed| panic!("{failed:?}"));
    assert_eq!((&told[0]["state"], &told[0]["chain"]["agrees"]), (&"ended".into(), &"yes".into()));
    balance(world, agent, &[anew]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_ends_by_a_revocation_that_the_relayer_sends() -> Result<()> {
    let world = World::with("approval-withdrawn", &Settings { finality: 8, ..Settings::default() }).await?;
    let (agent, operator, anvil) = (world.agent()?, world.operator()?, &world.anvil);
    let request = agent.request_mandate(&asking("10")?).await?.object;
    let funds = world.escrow.balance_of(operator.address()).await?;

    // Its opening is signed, and the node forgets it before a block has it.
    anvil.automine(false).await?;
    let id = operator.open_mandate(&approval(&world, &request, 0).await?).await?.object.id;
    anvil.drop_transaction(anvil.arrived().await?).await?;
    let accepted = operator.revoke_mandate(id, operator.sign_revocation(id).await?).await?.object;
    assert!(accepted.revoking && accepted.opening_until.is_none());

    // First the opening's nonce is used for nothing, then the revocation is sent.
    anvil.mine(1).await?;
    let cancel = anvil.arrived().await?;
    let cancel = anvil.provider().get_transaction_by_hash(cancel).await?.ok_or_eyre("not there")?;
    assert_eq!((cancel.to(), cancel.input().len()), (Some(world.keys.submitter.address()), 0), "{cancel:?}");
    anvil.automine(true).await?;
    anvil.mine(1).await?;
    let ended = world.mandate_in(&agent, id, MandateState::Ended).await?;
    assert!(ended.opened_tx.is_none() && ended.ended_tx.is_some() && !ended.revoking);
    assert_eq!(agent.mandate_request(request.id).await?.state, RequestState::Pending);
    assert_eq!(world.escrow.balance_of(operator.address()).await?, funds);

    // Nobody can open it any more.
    world.escrow.allow(&world.keys.operator, usdc("10")?).await?;
    let opened = world.escrow.open(&world.keys.operator, &ended.terms).await;
    assert!(matches!(opened, Err(ChainError::AlreadyEnded(known)) if known == id), "{opened:?}");
    let anew = operator.open_mandate(&approval(&world, &request, 1).await?).await?.object.id;
    anvil.pass(5).await?;
    world.mandate_in(&agent, anew, MandateState::Open).await?;
    balance(&world, &agent, &[anew]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn terms_that_were_revoked_before_the_relayer_knew_them_are_refused() -> Result<()> {
    let world = World::start("terms-revoked").await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    let request = agent.request_mandate(&asking("10")?).await?.object;
    let withdrawn = approval(&world, &request, 0).await?;
    let id = world.escrow.domain().mandate_id(&withdrawn.terms)?;
    world.escrow.revoke(&world.keys.operator, &withdrawn.terms).await?;
    world.followed(&agent).await?;
    assert_eq!(code(agent.mandate(id).await), Code::NotFound);
    assert_eq!(code(operator.open_mandate(&withdrawn).await), Code::OpenWouldFail);
    assert_eq!(code(agent.mandate(id).await), Code::NotFound);
    let anew = operator.open_mandate(&approval(&world, &request, 1).await?).await?.object.id;
    world.anvil.pass(5).await?;
    world.mandate_in(&agent, anew, MandateState::Open).await?;
    balance(&world, &agent, &[anew]).await
}

/// Whether the relayer answered such a request, by its access log.
fn answered(world: &World, method: &str, route: &str) -> Result<bool> {
    let request = format!("request{{method={method} route=\"{route}\" ");
    let log = fs::read_to_string(world.dir().join("relayer.log"))?;
    Ok(log.lines().any(|line| line.contains(&request) && line.contains("answered status=")))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_approves_by_message_again_goes_on_with_the_first() -> Result<()> {
    let waiting = Waiting::start("approval-again").await?;
    let (id, request) = (waiting.id, waiting.request.id.to_string());
    let world = Arc::new(waiting.world);
    let funds = world.escrow.balance_of(waiting.operator.address()).await?;
    let beside = world.clone();
    let said = tokio::task::spawn_blocking(move || {
        let arguments = ["mandate", "approve", &request, "--gasless", "--yes"];
        beside.stipend(&beside.keys.operator, &arguments)
    });
    // Only when it has looked for what is under way can that be sent.
    eventually("it has looked", async || Ok(answered(&world, "GET", "/v1/mandates")?.then_some(()))).await?;
    world.anvil.set_balance(world.keys.submitter.address(), ETHER).await?;
    let said = async {
        let said = said.await?;
        Ok::<_, eyre::Report>(said?.unwrap_or_else(|failed| panic!("{failed:?}")))
    };
    let mining = async {
        eventually("it is open", async || {
            world.anvil.mine(1).await?;
            Ok((waiting.agent.mandate(id).await?.state == MandateState::Open).then_some(()))
        })
        .await
    };
    let (mandate, mined) = tokio::join!(said, mining);
    mined?;
    let mandate = mandate?;
    assert_eq!((&mandate["id"], &mandate["state"]), (&id.to_string().into(), &"open".into()));
    assert!(!answered(&world, "POST", "/v1/mandates")?, "nothing was signed again");
    let mandates = waiting.operator.mandates(&Default::default()).await?.data;
    assert_eq!(mandates.len(), 1, "{mandates:?}");
    let left = world.escrow.balance_of(waiting.operator.address()).await?;
    assert_eq!(funds.checked_sub(left), Some(usdc("10")?), "one cap");
    balance(&world, &waiting.agent, &[id]).await
}

/// Whoever has a few cents and a new key costs the host nothing but what it allows.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_has_sent_for_free_is_bounded() -> Result<()> {
    let more = ["--mandate-min", "1", "--approvals-per-day", "1", "--sweep-min", "0.5"].map(String::from).to_vec();
    let mut world = World::with("bounded-approvals", &Settings { more, ..Settings::default() }).await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    let ask = async |amount: &str| Ok::<_, eyre::Report>(agent.request_mandate(&asking(amount)?).await?.object);

    let small = ask("0.999999").await?;
    assert_eq!(code(operator.open_mandate(&approval(&world, &small, 0).await?).await), Code::BelowMinimum);
    // Who pays for the opening, or for a roll, has it, and it counts as nothing that was sent for free; its end by a message
    // is not for free either.
    let small = world.approve(&small).await?;
    let terms = world.mandate_in(&agent, small, MandateState::Open).await?.terms;
    let longer = Terms { expiry: terms.expiry + 60, ..terms.clone() };
    let small = world.escrow.roll(&world.keys.operator, &terms, &longer, usdc("0")?).await?.mandate;
    world.mandate_in(&agent, small, MandateState::Open).await?;
    let signature = operator.sign_revocation(small).await?;
    assert_eq!(code(operator.revoke_mandate(small, signature).await), Code::BelowMinimum);

    let approval_1 = approval(&world, &ask("1").await?, 0).await?;
    let first = operator.open_mandate(&approval_1).await?.object.id;
    world.mandate_in(&agent, first, MandateState::Open).await?;
    let third = approval(&world, &ask("1").await?, 0).await?;
    let refused = operator.open_mandate(&third).await.unwrap_err().to_string();
    assert!(refused.contains("gas_budget_exceeded") && refused.contains("1 mandates"), "{refused}");
    // What was accepted is answered as before, and another operator is not concerned.
    assert!(operator.open_mandate(&approval_1).await?.replayed);
    let others = approval_by(&world, &world.keys.gasless, &ask("1").await?, 0).await?;
    let others = world.client(&world.keys.gasless)?.open_mandate(&others).await?.object.id;
    world.mandate_in(&agent, others, MandateState::Open).await?;

    // All operators together have a quota too.
    world.relayer.stop()?;
    world.relayer.set("--approvals-per-day", "9")?;
    world.relayer.more(&["--approvals-per-day-total", "2"]);
    world.relayer.restart().await?;
    let another = approval_by(&world, &world.keys.gasless, &ask("1").await?, 0).await?;
    let refused = world.client(&world.keys.gasless)?.open_mandate(&another).await.unwrap_err().to_string();
    assert!(refused.contains("gas_budget_exceeded") && refused.contains("this relayer"), "{refused}");

    // Crumbs stay until somebody asks for them.
    let pay = Pay::new(first, payee(1), usdc("0.6")?);
    let payment = world.pay(&agent, &pay).await??.object;
    world.settled(&agent, &payment).await?;
    world.anvil.pass(40 * 86_400).await?;
    world.returned(&agent, small, usdc("0.999999")?).await?;
    assert!(agent.mandate(first).await?.returned.is_zero());
    Ok(())
}

/// Gives the token another name, which its messages are then signed for.
async fn rename_token(world: &mut World) -> Result<()> {
    let token = world.escrow.token();
    let (old, new) = (short_string("USD Coin")?, short_string("USDC Test")?);
    for slot in 0..SLOTS {
        if world.anvil.provider().get_storage_at(token, U256::from(slot)).await? == U256::from_be_bytes(old.0) {
            world.anvil.set_storage(token, U256::from(slot).into(), new).await?;
            return look_at_the_token_anew(world).await;
        }
    }
    bail!("the token's name is in none of its first {SLOTS} slots")
}

/// A string of up to 31 bytes, as Solidity stores it.
fn short_string(text: &str) -> Result<B256> {
    let mut word = B256::right_padding_from(text.as_bytes());
    word[31] = u8::try_from(2 * text.len())?;
    Ok(word)
}

/// Makes the token sign for another version than it says it has.
async fn contradict_token(world: &mut World) -> Result<()> {
    let token = world.escrow.token();
    let slot = world.anvil.provider().get_storage_at(token, IMPLEMENTATION.parse()?).await?;
    let implementation = Address::from_word(slot.into());
    let mut code = world.anvil.provider().get_code_at(implementation).await?.to_vec();
    let version = keccak256("2");
    let at = code.windows(32).position(|word| word == version.as_slice());
    let at = at.ok_or_eyre("the hash of the version is not in the token's code")?;
    code.splice(at..at + 32, keccak256("3"));
    world.anvil.set_code(implementation, &code).await?;
    look_at_the_token_anew(world).await
}

async fn look_at_the_token_anew(world: &mut World) -> Result<()> {
    let chain = Chain::connect(world.anvil.url().clone()).await?;
    world.escrow = Escrow::at(chain, world.escrow.domain().escrow).await?;
    world.relayer.restart().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_name_is_approved_by_message_and_by_permit() -> Result<()> {
    let mut world = World::start("another-name").await?;
    rename_token(&mut world).await?;
    let (agent, operator) = (world.agent()?, world.operator()?);
    let request = agent.request_mandate(&asking("10")?).await?.object;
    let id = operator.open_mandate(&approval(&world, &request, 0).await?).await?.object.id;
    world.mandate_in(&agent, id, MandateState::Open).await?;

    let request = agent.request_mandate(&asking("10")?).await?.object;
    let start = world.time().await?;
    let terms = request.terms(world.keys.operator.address(), world.keys.guardian.address(), start);
    world.escrow.open_with_permit(&world.keys.operator, &terms, start + 3_600).await?;
    let id = world.escrow.domain().mandate_id(&terms)?;
    world.mandate_in(&agent, id, MandateState::Open).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_contradicts_itself_is_refused_by_that_reason() -> Result<()> {
    let mut world = World::start("contradicting-name").await?;
    let agent = world.agent()?;
    let request = agent.request_mandate(&asking("10")?).await?.object;
    let signed = approval(&world, &request, 0).await?;
    contradict_token(&mut world).await?;
    let refused = world.operator()?.open_mandate(&signed).await.unwrap_err();
    assert_eq!(refused.code(), Some(Code::OpenWouldFail));
    assert!(refused.to_string().contains("DOMAIN_SEPARATOR"), "{refused}");
    let refused = world.escrow.authorize(&world.keys.operator, &signed.terms, signed.terms.start + 3_600).unwrap_err();
    assert!(refused.to_string().contains("DOMAIN_SEPARATOR"), "{refused}");
    // By a transaction it goes as ever.
    let id = world.approve(&request).await?;
    world.mandate_in(&agent, id, MandateState::Open).await.map(drop)
}
