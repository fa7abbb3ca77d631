//! Signatures over digests: 65 bytes on the wire, two words (ERC-2098) on chain, low s only.

use alloy_primitives::{Address, B256, Signature, U256};

/// Why bytes are not a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Another length than 65.
    #[error("a signature is 65 bytes, r, s and v; this has {0}")]
    Length(usize),
    /// v is neither 27 nor 28, nor 0 or 1 as some wallets have it.
    #[error("the last byte of a signature is 27 or 28 (or 0 or 1); this is {0}")]
    RecoveryId(u8),
    /// The upper of the two s that verify: refused by the contract too, since nobody signs it.
    #[error("the signature's s is in the upper half of the curve's order")]
    HighS,
    /// No key signs so.
    #[error("no key has made this signature")]
    Unrecoverable,
}

fn parse(bytes: &[u8]) -> Result<Signature, SignatureError> {
    let bytes: &[u8; 65] = bytes.try_into().map_err(|_| SignatureError::Length(bytes.len()))?;
    let [words @ .., v] = bytes;
    let (r, s) = words.split_at(32);
    let parity = match v {
        0 | 27 => false,
        1 | 28 => true,
        other => return Err(SignatureError::RecoveryId(*other)),
    };
    let signature = Signature::new(U256::from_be_slice(r), U256::from_be_slice(s), parity);
    // alloy's recovery would quietly lower a high s; the contract refuses it.
    if signature.normalize_s().is_some() {
        return Err(SignatureError::HighS);
    }
    Ok(signature)
}

/// Who signed `digest`.
///
/// # Errors
/// [`SignatureError`] if the bytes are no valid low-s signature.
pub fn recover(digest: B256, signature: &[u8]) -> Result<Address, SignatureError> {
    let signer = parse(signature)?.recover_address_from_prehash(&digest).map_err(|_| SignatureError::Unrecoverable)?;
    if signer.is_zero() { Err(SignatureError::Unrecoverable) } else { Ok(signer) }
}

/// The signature as contracts take it: with 27 or 28 as its last byte.
///
/// # Errors
/// [`SignatureError`] if the bytes are no signature.
pub fn canonical(signature: &[u8]) -> Result<[u8; 65], SignatureError> {
    Ok(parse(signature)?.as_bytes())
}

/// A signature in two words (ERC-2098).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactSignature {
    /// The first half.
    pub r: B256,
    /// `s`, and the parity of `v` as its highest bit.
    pub vs: B256,
}

/// The signature in two words.
///
/// # Errors
/// [`SignatureError`] if the bytes are no signature.
pub fn compact(signature: &[u8]) -> Result<CompactSignature, SignatureError> {
    let signature = parse(signature)?;
    let parity = U256::from(signature.v()) << 255;
    Ok(CompactSignature { r: B256::from(signature.r()), vs: B256::from(signature.s() | parity) })
}
