//! Where a `MandateEscrow` stands: an address that its code, its token and a salt determine, whoever deploys it and on
//! whatever chain. It is created by CREATE2 (EIP-1014) through the deterministic deployment proxy, which most chains
//! have: <https://github.com/Arachnid/deterministic-deployment-proxy>.

use alloy_primitives::{Address, B256, Bytes, address, b256, bytes};
use alloy_sol_types::SolConstructor;

use crate::abi::MandateEscrow;

/// The salt of the one escrow that a token has on a chain: "MandateEscrow", and zeros. Another salt gives the token
/// another escrow. A new version of the contract needs no other salt: its code differs, and so does its address.
pub const SALT: B256 = b256!("4d616e64617465457363726f7700000000000000000000000000000000000000");

/// The deterministic deployment proxy. Its input is a salt and creation code.
pub const DEPLOYER: Address = address!("4e59b44847b379578588920cA78FbF26c0B4956C");

/// The proxy's code: only with this one an address can be told in advance.
pub const DEPLOYER_CODE: Bytes = bytes!(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
);

/// The one transaction that puts the proxy on a chain. Its signature was not made with a key, so anybody can send it,
/// and nobody can send another one from its account.
pub const DEPLOYER_TRANSACTION: Bytes = bytes!(
    "f8a58085174876e800830186a08080b853604580600e600039806000f350fe7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf31ba02222222222222222222222222222222222222222222222222222222222222222a02222222222222222222222222222222222222222222222222222222222222222"
);

/// Whose transaction that is. It pays 100,000 gas at 100 gwei.
pub const DEPLOYER_SENDER: Address = address!("3fAB184622Dc19b6109349B94811493BF2a45362");

/// The code that creates the escrow of a token.
#[must_use]
pub fn creation_code(token: Address) -> Bytes {
    let arguments = MandateEscrow::constructorCall { token_: token }.abi_encode();
    [&MandateEscrow::BYTECODE[..], &arguments].concat().into()
}

/// What [`DEPLOYER`] is called with to create the escrow of a token.
#[must_use]
pub fn deployer_input(token: Address, salt: B256) -> Bytes {
    [&salt[..], &creation_code(token)].concat().into()
}

/// Where that escrow stands.
#[must_use]
pub fn escrow_address(token: Address, salt: B256) -> Address {
    DEPLOYER.create2_from_code(salt, creation_code(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_salt_is_a_name() {
        assert_eq!(SALT.as_slice().strip_prefix(b"MandateEscrow"), Some(&[0; 19][..]));
    }

    #[test]
    fn the_proxy_is_what_the_first_transaction_of_its_sender_creates() {
        assert_eq!(DEPLOYER_SENDER.create(0), DEPLOYER);
        let creates = DEPLOYER_TRANSACTION.windows(DEPLOYER_CODE.len()).any(|part| part == &DEPLOYER_CODE[..]);
        assert!(creates);
    }

    #[test]
    fn token_and_salt_make_the_address() {
        let (token, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let address = escrow_address(token, SALT);
        assert_eq!(address, escrow_address(token, SALT));
        assert_ne!(address, escrow_address(other, SALT));
        assert_ne!(address, escrow_address(token, B256::ZERO));
    }
}
