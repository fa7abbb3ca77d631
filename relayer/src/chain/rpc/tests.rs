//! Several nodes that follow scripts.

use alloy_primitives::B256;
use serde_json::{Value, json};

use super::{scripted::Scripted, *};

const ACCOUNT: Address = Address::repeat_byte(7);

/// So many nodes with ten blocks each, and the relayer's view of them.
async fn several<const N: usize>() -> ([Scripted; N], Rpc, Alarms) {
    let mut nodes = Vec::new();
    for _ in 0..N {
        nodes.push(Scripted::start(10).await);
    }
    let urls: Vec<Url> = nodes.iter().map(|node| node.url.clone()).collect();
    let alarms = Alarms::default();
    let rpc = Rpc::new(&urls, 1, alarms.clone()).unwrap();
    (nodes.try_into().unwrap(), rpc, alarms)
}

fn asked(node: &Scripted, method: &str) -> usize {
    node.script().asked.iter().filter(|(asked, _)| asked == method).count()
}

async fn refresh_all(rpc: &Rpc) {
    for index in 0..rpc.count() {
        rpc.check_head(index).await;
    }
}

#[tokio::test]
async fn another_node_answers_when_the_preferred_one_fails() {
    let ([first, second], rpc, alarms) = several().await;
    rpc.balance(ACCOUNT).await.unwrap_err();
    first.script().balance = Some(1);
    second.script().balance = Some(2);
    refresh_all(&rpc).await;
    assert_eq!(rpc.balance(ACCOUNT).await.unwrap(), 1);
    for status in [429, 500, 404] {
        first.script().fails = vec![("eth_getBalance", status)];
        assert_eq!(rpc.balance(ACCOUNT).await.unwrap(), 2);
        let raised = alarms.view().alarms;
        let name = format!("127.0.0.1:{}", first.url.port().unwrap());
        assert!(raised.len() == 1 && raised[0].starts_with(&format!("nodes: {name} is not used: ")), "{raised:?}");
        assert!(raised[0].contains(&status.to_string()) && !raised[0].contains("secret"), "{raised:?}");
        assert!(alarms.halted().is_none());

        // It is back when it has shown its chain and its head.
        first.script().fails = Vec::new();
        assert_eq!(rpc.balance(ACCOUNT).await.unwrap(), 2);
        let before = asked(&first, "eth_chainId");
        refresh_all(&rpc).await;
        assert_eq!(asked(&first, "eth_chainId"), before + 1);
        assert_eq!(rpc.balance(ACCOUNT).await.unwrap(), 1);
        assert!(alarms.view().alarms.is_empty());
    }
}

#[tokio::test]
async fn a_node_on_another_chain_is_asked_only_for_its_chain_id() {
    let ([first, second], rpc, alarms) = several().await;
    first.script().balance = Some(1);
    second.script().chain_id = 5;
    first.script().fails = vec![("eth_getBalance", 500)];
    rpc.balance(ACCOUNT).await.unwrap_err();
    assert_eq!((asked(&second, "eth_chainId"), asked(&second, "eth_getBalance")), (1, 0));
    assert!(alarms.view().alarms[0].contains("it is on chain 5, not on 1"), "{:?}", alarms.view());
    rpc.send(&[1]).await;
    assert_eq!(asked(&second, "eth_sendRawTransaction"), 0);
    assert!(alarms.halted().is_none());

    // None is left: nothing is taken until one is back.
    first.script().chain_id = 5;
    first.script().fails = Vec::new();
    refresh_all(&rpc).await;
    rpc.balance(ACCOUNT).await.unwrap_err();
    assert!(alarms.halted().unwrap().contains("--chain-id"));
    first.script().chain_id = 1;
    assert_eq!(rpc.balance(ACCOUNT).await.unwrap(), 1);
    refresh_all(&rpc).await;
    assert!(alarms.halted().is_none());
}

#[tokio::test]
async fn startup_names_a_wrong_chain_and_tolerates_a_silent_node() {
    let ([first, second], rpc, _) = several().await;
    assert_eq!(rpc.verify_chain_ids().await.unwrap(), None);
    first.script().fails = vec![("eth_chainId", 500)];
    assert_eq!(rpc.verify_chain_ids().await.unwrap(), None);
    second.script().chain_id = 5;
    let name = format!("127.0.0.1:{}", second.url.port().unwrap());
    assert_eq!(rpc.verify_chain_ids().await.unwrap(), Some((name, 5)));
    second.script().fails = vec![("eth_chainId", 500)];
    rpc.verify_chain_ids().await.unwrap_err();
}

#[tokio::test]
async fn a_node_that_lags_is_not_asked_while_a_fresher_one_is_there() {
    let ([first, second], rpc, alarms) = several().await;
    [(&first, 1), (&second, 2)].into_iter().for_each(|(node, wei)| node.script().balance = Some(wei));
    second.mine(60, 0);
    refresh_all(&rpc).await;
    assert_eq!(rpc.balance(ACCOUNT).await.unwrap(), 2);
    assert!(alarms.view().alarms[0].contains("its head is block 10 where another has 70"), "{:?}", alarms.view());
    assert_eq!(rpc.choose().await.unwrap().node.name(), second.node().name());
    first.mine(60, 0);
    refresh_all(&rpc).await;
    assert_eq!(rpc.balance(ACCOUNT).await.unwrap(), 1);
    assert!(alarms.view().alarms.is_empty());
}

#[tokio::test]
async fn what_is_sent_goes_to_every_node_and_the_best_answer_counts() {
    let ([first, second, third], rpc, _) = several().await;
    for (errors, expected) in [
        ([None, Some("nonce too low"), Some("insufficient funds")], SendOutcome::Accepted),
        ([Some("insufficient funds"), None, Some("oversized data")], SendOutcome::Accepted),
        ([Some("insufficient funds"), Some("nonce too low"), Some("oversized data")], SendOutcome::NonceUsed),
        (
            [Some("oversized data"), Some("replacement transaction underpriced"), Some("rate limit")],
            SendOutcome::Underpriced,
        ),
        ([Some("oversized data"), Some("too many requests"), Some("oversized data")], SendOutcome::Unknown),
        ([Some("oversized data"); 3], SendOutcome::TooLarge),
    ] {
        for (node, error) in [&first, &second, &third].into_iter().zip(errors) {
            node.script().send_error = error.map(str::to_owned);
        }
        let before = [&first, &second, &third].map(|node| asked(node, "eth_sendRawTransaction"));
        assert_eq!(rpc.send(&[1]).await.0, expected, "{errors:?}");
        let after = [&first, &second, &third].map(|node| asked(node, "eth_sendRawTransaction"));
        assert_eq!(after, before.map(|count| count + 1));
    }
}

#[tokio::test]
async fn the_highest_nonce_of_all_nodes_counts() {
    let ([first, second], rpc, _) = several().await;
    first.script().nonce = 3;
    second.script().nonce = 5;
    assert_eq!(rpc.nonce(ACCOUNT).await.unwrap(), 5);
    second.script().fails = vec![("eth_getTransactionCount", 500)];
    assert_eq!(rpc.nonce(ACCOUNT).await.unwrap(), 3);
    first.script().fails = vec![("eth_getTransactionCount", 500)];
    rpc.nonce(ACCOUNT).await.unwrap_err();
}

#[tokio::test]
async fn a_block_that_one_node_does_not_know_is_asked_of_the_next() {
    let ([first, second], rpc, alarms) = several().await;
    second.mine(1, 0);
    let call = EthCall { from: None, to: ACCOUNT, data: Bytes::new(), gas: None };
    let at = BlockId::hash(second.block(11).hash);
    let token = rpc.call::<stipend_bindings::abi::MandateEscrow::tokenCall>(call.clone(), at).await;
    assert_eq!(token.unwrap(), ACCOUNT);
    assert!(alarms.view().alarms.is_empty());
    let unknown = rpc.call::<stipend_bindings::abi::MandateEscrow::tokenCall>(call, B256::repeat_byte(1)).await;
    assert!(matches!(unknown, Err(RpcError::NoSuchBlock { .. })));
    assert_eq!(asked(&first, "eth_call"), 2);
}

#[tokio::test]
async fn a_node_quoting_its_url_reveals_no_key() {
    let node =
        Node::new("https://user:password-1@rpc.example/v3/0123456789abcdef?key=fedcba9876543210".parse().unwrap());
    let node = node.unwrap();
    assert_eq!((node.name(), format!("{node:?}").as_str()), ("rpc.example:443", "Node(\"rpc.example:443\")"));
    let said = node.without_secrets("bad key fedcba9876543210 at /v3/0123456789abcdef for user:password-1");
    assert_eq!(said, "bad key … at /v3/… for user:…");
}

#[tokio::test]
async fn a_node_without_a_suggested_tip_is_asked_for_fees_in_other_ways() {
    let ([node], rpc, _) = several().await;
    node.script().answers = vec![
        ("eth_maxPriorityFeePerGas", json!("0x5")),
        (
            "eth_feeHistory",
            json!({ "oldestBlock": "0x1", "baseFeePerGas": ["0x7", "0x7", "0x7", "0x7"], "gasUsedRatio": [0.1, 0.1, 0.1],
                    "reward": [["0x3"], ["0x9"], ["0x4"]] }),
        ),
        ("eth_gasPrice", json!("0xa")),
    ];
    assert_eq!(rpc.tip(7).await.unwrap(), 5);
    node.script().lacks = vec!["eth_maxPriorityFeePerGas"];
    assert_eq!(rpc.tip(7).await.unwrap(), 4);
    node.script().lacks.push("eth_feeHistory");
    assert_eq!(rpc.tip(7).await.unwrap(), 3);
    node.script().lacks.push("eth_gasPrice");
    rpc.tip(7).await.unwrap_err();
}

#[tokio::test]
async fn a_receipt_counts_what_a_rollup_charges_besides_gas() {
    let ([node], rpc, _) = several().await;
    let receipt = |more: Value| {
        let mut receipt = json!({
            "type": "0x7e", "status": "0x1", "gasUsed": "0x3e8", "effectiveGasPrice": "0x2", "logs": [],
            "transactionHash": B256::repeat_byte(2), "blockHash": B256::repeat_byte(3),
        });
        receipt.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        receipt
    };
    for (more, cost) in [
        (json!({}), 2_000),
        (json!({ "l1Fee": "0x64" }), 2_100),
        (json!({ "l1Fee": "0x64", "operatorFeeScalar": "0x1e8480", "operatorFeeConstant": "0x7" }), 4_107),
        (json!({ "operatorFeeScalar": "0x2", "operatorFeeConstant": "0x7", "daFootprintGasScalar": "0x190" }), 202_007),
        (json!({ "l1Fee": null }), 2_000),
    ] {
        node.script().answers = vec![("eth_getTransactionReceipt", receipt(more.clone()))];
        let found = rpc.receipt(B256::repeat_byte(2)).await.unwrap().unwrap();
        assert!(found.succeeded);
        assert_eq!(found.cost, cost, "{more}");
    }
}

#[tokio::test]
async fn a_transaction_of_an_unknown_type_has_a_sender() {
    let ([node], rpc, _) = several().await;
    let transaction = json!({ "type": "0x7e", "sourceHash": B256::ZERO, "from": ACCOUNT, "mint": "0x0" });
    node.script().answers = vec![("eth_getTransactionByHash", transaction)];
    assert_eq!(rpc.sender_of(B256::repeat_byte(2)).await.unwrap(), Some(ACCOUNT));
}
