//! Rust against the golden vectors that Solidity checks too (contracts/test). They were made by an
//! independent implementation.

use crate::CompactSignature;
use crate::Validity;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::SolStruct;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stipend_core::{Amount, Code, MandateId, merkle, terms::TermsError};

use crate::{
    Domain, Hold, ReceiveWithAuthorization, Revoke, Roll,
    SignatureError::{HighS, Length, RecoveryId, Unrecoverable},
    Spend, Sweep,
    abi::MandateEscrow,
    authorization_digest, canonical, compact, recover, terms_from_chain, terms_on_chain,
};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/eip712.json")).unwrap()
}

fn get<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

/// Numbers are decimal strings in the file, whatever their width.
fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &Value) -> T {
    get::<String>(value).parse().unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

fn domain(value: &Value) -> Domain {
    assert_eq!((get::<String>(&value["name"]), get::<String>(&value["version"])), ("MandateEscrow".into(), "1".into()));
    Domain { chain_id: number(&value["chainId"]), escrow: get(&value["verifyingContract"]) }
}

fn terms(value: &Value) -> MandateEscrow::Terms {
    MandateEscrow::Terms {
        operator: get(&value["operator"]),
        agent: get(&value["agent"]),
        guardian: get(&value["guardian"]),
        cap: number(&value["cap"]),
        perPayment: number(&value["perPayment"]),
        windowCap: number(&value["windowCap"]),
        window: number(&value["window"]),
        start: number(&value["start"]),
        expiry: number(&value["expiry"]),
        captureEnd: number(&value["captureEnd"]),
        payees: get(&value["payees"]),
        intent: get(&value["intent"]),
        refundsRestoreBudget: get(&value["refundsRestoreBudget"]),
    }
}

fn spend(value: &Value) -> Spend {
    Spend {
        mandate: get(&value["mandate"]),
        payee: get(&value["payee"]),
        amount: number(&value["amount"]),
        nonce: number(&value["nonce"]),
        deadline: number(&value["deadline"]),
        reference: get(&value["ref"]),
    }
}

/// A signature as it is sent: `r ‖ s ‖ v`, from its two words on chain.
fn wire(r: B256, vs: B256) -> Vec<u8> {
    let mut signature = [r.as_slice(), vs.as_slice(), &[27 + (vs[0] >> 7)]].concat();
    signature[32] &= 0x7f;
    signature
}

/// The escrow's domain on the chain that most vectors are for.
fn home(vectors: &Value) -> Domain {
    domain(&vectors["domains"][0]["domain"])
}

#[test]
fn type_strings_are_those_of_solidity() {
    let vectors = vectors();
    let ours = [
        ("Terms", MandateEscrow::Terms::eip712_encode_type()),
        ("Spend", Spend::TYPE.into()),
        ("Hold", Hold::TYPE.into()),
        ("Revoke", Revoke::eip712_encode_type()),
        ("Sweep", Sweep::eip712_encode_type()),
        ("Roll", Roll::eip712_encode_type()),
        ("ReceiveWithAuthorization", ReceiveWithAuthorization::eip712_encode_type()),
    ];
    for (name, ours) in ours {
        let theirs = &vectors["types"][name];
        assert_eq!(ours, get::<String>(&theirs["type"]));
        assert_eq!(keccak256(ours.as_bytes()), get::<B256>(&theirs["typeHash"]));
    }
}

#[test]
fn domains_separate_as_in_solidity() {
    for vector in list(&vectors()["domains"]) {
        assert_eq!(domain(&vector["domain"]).eip712().separator(), get::<B256>(&vector["separator"]));
    }
}

/// The contract's error, as the vectors name it.
const fn solidity_error(error: TermsError) -> &'static str {
    match error {
        TermsError::OperatorZero => "OperatorIsZero()",
        TermsError::AgentZero => "AgentIsZero()",
        TermsError::CapZero => "CapIsZero()",
        TermsError::StartNotBeforeExpiry { .. } => "StartNotBeforeExpiry(uint40,uint40)",
        TermsError::ExpiryAfterCaptureEnd { .. } => "ExpiryAfterCaptureEnd(uint40,uint40)",
        TermsError::CaptureEndTooLate { .. } => "CaptureEndTooLate(uint40,uint40)",
        TermsError::ExpiryPassed { .. } => "ExpiryNotInFuture(uint40,uint256)",
        TermsError::WindowIncomplete => "WindowIncomplete(uint32,uint64)",
        TermsError::WindowCapAboveCap(..) => "WindowCapAboveCap(uint64,uint64)",
        TermsError::PerPaymentAboveCap(..) => "PerPaymentAboveCap(uint64,uint64)",
    }
}

#[test]
fn terms_are_refused_as_solidity_refuses_to_open_them() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/terms.json")).unwrap();
    for vector in list(&vectors["openings"]) {
        let terms = terms_from_chain(&terms(&vector["terms"])).unwrap();
        let error = terms.check(number(&vector["now"])).map_or_else(solidity_error, |()| "");
        assert_eq!(error, get::<String>(&vector["error"]), "{}", vector["name"]);
    }
}

#[test]
fn mandates_have_the_ids_of_solidity() {
    let vectors = vectors();
    let home = home(&vectors);
    for vector in list(&vectors["mandates"]) {
        let (terms, id) = (terms(&vector["terms"]), MandateId(get(&vector["mandate"])));
        assert_eq!(terms.eip712_signing_hash(&home.eip712()), id.0, "{}", vector["name"]);
        // What a ledger can hold is the same as a core type, and back.
        if let Ok(ours) = terms_from_chain(&terms) {
            assert_eq!(home.mandate_id(&ours), Ok(id));
            assert_eq!(terms_on_chain(&ours), Ok(terms));
        } else {
            assert!(terms.cap > Amount::MAX.units(), "{}", vector["name"]);
        }
    }
}

#[test]
fn payment_digests_and_signers_match_solidity() {
    let vectors = vectors();
    let agent: Address = get(&vectors["agent"]["address"]);
    for vector in list(&vectors["spends"]) {
        let domain = Domain { chain_id: number(&vector["chainId"]), ..home(&vectors) };
        let digest = domain.spend_digest(&spend(&vector["spend"]));
        assert_eq!(digest, get::<B256>(&vector["digest"]), "{}", vector["name"]);

        let (r, vs): (B256, B256) = (get(&vector["r"]), get(&vector["vs"]));
        let signature = wire(r, vs);
        assert_eq!(recover(digest, &signature), Ok(agent), "{}", vector["name"]);
        assert_eq!(compact(&signature), Ok(CompactSignature { r, vs }));
        assert_ne!(recover(B256::ZERO, &signature), Ok(agent));
    }
}

#[test]
fn hold_digests_and_signers_match_solidity() {
    let vectors = vectors();
    let agent: Address = get(&vectors["agent"]["address"]);
    for vector in list(&vectors["holds"]) {
        let hold = &vector["hold"];
        let hold = Hold {
            mandate: get(&hold["mandate"]),
            payee: get(&hold["payee"]),
            amount: number(&hold["amount"]),
            nonce: number(&hold["nonce"]),
            deadline: number(&hold["deadline"]),
            captureBy: number(&hold["captureBy"]),
            reference: get(&hold["ref"]),
        };
        let domain = Domain { chain_id: number(&vector["chainId"]), ..home(&vectors) };
        let digest = domain.hold_digest(&hold);
        assert_eq!(digest, get::<B256>(&vector["digest"]), "{}", vector["name"]);
        let signature = wire(get(&vector["r"]), get(&vector["vs"]));
        assert_eq!(recover(digest, &signature), Ok(agent), "{}", vector["name"]);
    }
}

#[test]
fn operator_message_digests_match_solidity() {
    let vectors = vectors();
    let operator: Address = get(&vectors["operator"]["address"]);
    let check = |vector: &Value, digest: B256| {
        assert_eq!(digest, get::<B256>(&vector["digest"]), "{}", vector["name"]);
        assert_eq!(recover(digest, &get::<Bytes>(&vector["signature"])), Ok(operator), "{}", vector["name"]);
    };
    for vector in list(&vectors["revocations"]) {
        let domain = Domain { chain_id: number(&vector["chainId"]), ..home(&vectors) };
        check(vector, domain.revoke_digest(MandateId(get(&vector["mandate"]))));
    }
    for vector in list(&vectors["sweeps"]) {
        let domain = Domain { chain_id: number(&vector["chainId"]), ..home(&vectors) };
        let sweep = &vector["sweep"];
        let (mandate, recipient) = (MandateId(get(&sweep["mandate"])), get(&sweep["recipient"]));
        check(vector, domain.sweep_digest(mandate, recipient, number(&sweep["deadline"])).unwrap());
    }
    for vector in list(&vectors["rolls"]) {
        let domain = Domain { chain_id: number(&vector["chainId"]), ..home(&vectors) };
        let (roll, digest) = (&vector["roll"], get::<B256>(&vector["digest"]));
        let message = Roll { from: get(&roll["from"]), to: get(&roll["to"]), maxPull: number(&roll["maxPull"]) };
        assert_eq!(message.eip712_signing_hash(&domain.eip712()), digest, "{}", vector["name"]);
        // No amount is as large as the largest number.
        if let Ok(max_pull) = Amount::from_units(message.maxPull) {
            check(vector, domain.roll_digest(MandateId(message.from), MandateId(message.to), max_pull));
        }
    }
}

#[test]
fn authorizations_have_the_digests_of_the_token() {
    let vectors = vectors();
    let token: Address = get(&vectors["tokenDomain"]["domain"]["verifyingContract"]);
    let operator: Address = get(&vectors["operator"]["address"]);
    for vector in list(&vectors["authorizations"]) {
        let authorization = &vector["authorization"];
        // Those with 256-bit numbers are the token's business: this relayer never makes them.
        let value: U256 = number(&authorization["value"]);
        let (Ok(value), Ok(valid_before)) =
            (u64::try_from(value), get::<String>(&authorization["validBefore"]).parse::<u64>())
        else {
            continue;
        };
        let Ok(cap) = Amount::from_units(value) else { continue };
        let validity = Validity { after: number(&authorization["validAfter"]), before: valid_before };
        let mandate = MandateId(get(&authorization["nonce"]));
        let from = get(&authorization["from"]);
        let home = Domain { escrow: get(&authorization["to"]), ..home(&vectors) };
        let token = crate::TokenDomain::new("USD Coin", "2", home.chain_id, token);
        let digest = authorization_digest(home, token, from, cap, validity, mandate);
        assert_eq!(digest, get::<B256>(&vector["digest"]), "{}", vector["name"]);
        assert_eq!(recover(digest, &get::<Bytes>(&vector["signature"])), Ok(operator));
    }
}

#[test]
fn payees_have_the_roots_and_proofs_of_solidity() {
    for vector in list(&vectors()["payeeTrees"]) {
        let payees: Vec<Address> = get(&vector["payees"]);
        let root = get(&vector["root"]);
        assert_eq!(merkle::root(&payees), root);
        for ((payee, leaf), proof) in
            payees.iter().zip(list(&vector["leaves"])).zip(vector["proofs"].as_array().unwrap())
        {
            let proof: Vec<B256> = get(proof);
            assert_eq!(merkle::leaf(*payee), get::<B256>(leaf));
            assert_eq!(merkle::proof(&payees, *payee).unwrap(), proof);
            assert!(merkle::verify(root, *payee, &proof));
        }
    }
}

#[test]
fn reasons_are_the_same_list() {
    let reasons: Vec<String> = get(&vectors()["reasons"]);
    assert_eq!(reasons.first().map(String::as_str), Some("None"));
    for (number, name) in reasons.iter().enumerate().skip(1) {
        let code = Code::from_reason(u8::try_from(number).unwrap()).unwrap();
        assert_eq!(format!("{code:?}"), *name);
    }
    assert_eq!(Code::from_reason(u8::try_from(reasons.len()).unwrap()), None);
}

#[test]
fn signatures_that_nobody_makes_are_refused() {
    let vector = &vectors()["spends"][0];
    let (r, vs): (B256, B256) = (get(&vector["r"]), get(&vector["vs"]));
    let digest: B256 = get(&vector["digest"]);
    let good = wire(r, vs);
    assert!(recover(digest, &good).is_ok());

    assert_eq!(recover(digest, &good[..64]), Err(Length(64)));
    assert_eq!(recover(digest, &[good.clone(), vec![0]].concat()), Err(Length(66)));
    assert_eq!(recover(digest, &[]), Err(Length(0)));
    // As hardware wallets sign.
    let bare = [&good[..64], &[good[64] - 27]].concat();
    assert_eq!(recover(digest, &bare), recover(digest, &good));
    assert_eq!(canonical(&bare).unwrap().as_slice(), good.as_slice());
    for v in [2, 3, 26, 29, 255] {
        let mut bad = good.clone();
        bad[64] = v;
        assert_eq!(recover(digest, &bad), Err(RecoveryId(v)));
    }
    assert_eq!(recover(digest, &[[0; 64].as_slice(), &[27]].concat()), Err(Unrecoverable));

    // The twin in the upper half: order − s, with the other parity.
    let order = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141".parse::<U256>().unwrap();
    let s = U256::from_be_slice(&good[32..64]);
    let twin = [&good[..32], &(order - s).to_be_bytes::<32>(), &[55 - good[64]]].concat();
    assert_eq!(recover(digest, &twin), Err(HighS));
    assert_eq!(compact(&twin), Err(HighS));
}
