//! Whether what stands at an address is the `MandateEscrow` that this program was built with.

use serde::Deserialize;

use crate::abi::MandateEscrow;

/// What the ABI's file knows beside the ABI.
#[derive(Deserialize)]
struct Artifact {
    /// Where the constructor fills in a word.
    immutables: Vec<usize>,
}

const WORD: usize = 32;

/// Whether this is the code of a `MandateEscrow`, whatever token, address and chain its constructor
/// wrote into it: those can be asked of it, since the code is what it says.
#[must_use]
pub fn is_mandate_escrow(code: &[u8]) -> bool {
    let expected = &MandateEscrow::DEPLOYED_BYTECODE;
    let Ok(artifact) = serde_json::from_str::<Artifact>(include_str!("../abi/MandateEscrow.json")) else {
        return false;
    };
    let filled_in = |place: usize| artifact.immutables.iter().any(|start| (*start..*start + WORD).contains(&place));
    code.len() == expected.len()
        && code.iter().zip(expected).enumerate().all(|(place, (byte, expected))| byte == expected || filled_in(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_constructor_fills_in_may_differ() {
        let artifact: Artifact = serde_json::from_str(include_str!("../abi/MandateEscrow.json")).unwrap();
        let mut code = MandateEscrow::DEPLOYED_BYTECODE.to_vec();
        assert!(!code.is_empty() && !artifact.immutables.is_empty());
        for start in artifact.immutables {
            code[start..start + WORD].fill(0x77);
        }
        assert!(is_mandate_escrow(&code));
        assert!(!is_mandate_escrow(&code[..code.len() - 1]));
        assert!(!is_mandate_escrow(&[]));
        code[0] ^= 1;
        assert!(!is_mandate_escrow(&code));
    }
}
