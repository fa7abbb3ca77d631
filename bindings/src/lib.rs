//! The `MandateEscrow` and its token as Rust sees them: calls, events and errors from the
//! committed ABI, the EIP-712 digests that agents and operators sign, the signatures over them, and
//! where an escrow is deployed. No I/O.

#![warn(missing_docs)]

mod code;
mod convert;
pub mod deployment;
mod digest;
mod signature;
#[cfg(test)]
mod vectors;

pub use code::is_mandate_escrow;
pub use convert::{OutOfRange, hold_row, row, terms_from_chain, terms_on_chain};
pub use digest::{
    Domain, Hold, ReceiveWithAuthorization, Revoke, Roll, Spend, Sweep, TokenDomain, Validity, authorization_digest,
    permit_digest,
};
pub use signature::{CompactSignature, SignatureError, canonical, compact, recover};

/// The contracts' interfaces and creation code, from `bindings/abi`.
#[expect(missing_docs, reason = "generated from the ABI; Solidity's interfaces document it")]
pub mod abi {
    alloy_sol_types::sol!(
        #[derive(Debug, PartialEq, Eq)]
        MandateEscrow,
        "abi/MandateEscrow.json"
    );
    alloy_sol_types::sol!(
        #[derive(Debug, PartialEq, Eq)]
        MockUSDC,
        "abi/MockUSDC.json"
    );
    alloy_sol_types::sol!(
        #[derive(Debug, PartialEq, Eq)]
        MockUSDCProxy,
        "abi/MockUSDCProxy.json"
    );
}
