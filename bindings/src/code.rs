//! Whether the code at an address is the `MandateEscrow` that this program was built with.

use serde::Deserialize;

use crate::abi::MandateEscrow;

/// What the ABI's file knows beside the ABI.
#[derive(Deserialize)]
struct Artifact {
    /// Where the constructor fills in a word: a list per immutable.
    immutables: Vec<Vec<usize>>,
}

const WORD: usize = 32;

/// Whether this is the code of a `MandateEscrow`, whatever token, address and chain its constructor
/// wrote into it: those can be asked of it, since the code is what it says, and it says the same of
/// each of them everywhere.
#[must_use]
pub fn is_mandate_escrow(code: &[u8]) -> bool {
    let expected = &MandateEscrow::DEPLOYED_BYTECODE;
    let Ok(artifact) = serde_json::from_str::<Artifact>(include_str!("../abi/MandateEscrow.json")) else {
        return false;
    };
    let places = || artifact.immutables.iter().flatten();
    let filled_in = |place: usize| places().any(|start| (*start..*start + WORD).contains(&place));
    let word = |start: &usize| code.get(*start..*start + WORD);
    let one_word =
        |places: &Vec<usize>| places.windows(2).all(|pair| pair.iter().map(word).is_sorted_by(PartialEq::eq));
    code.len() == expected.len()
        && artifact.immutables.iter().all(one_word)
        && code.iter().zip(expected).enumerate().all(|(place, (byte, expected))| byte == expected || filled_in(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code with this word in all places of each immutable.
    fn deployed(artifact: &Artifact) -> Vec<u8> {
        let mut code = MandateEscrow::DEPLOYED_BYTECODE.to_vec();
        for (immutable, places) in (1..).zip(&artifact.immutables) {
            for start in places {
                code[*start..*start + WORD].fill(immutable);
            }
        }
        code
    }

    fn artifact() -> Artifact {
        serde_json::from_str(include_str!("../abi/MandateEscrow.json")).unwrap()
    }

    #[test]
    fn only_what_the_constructor_fills_in_may_differ() {
        let mut code = deployed(&artifact());
        assert!(!artifact().immutables.is_empty());
        assert!(is_mandate_escrow(&code));
        assert!(!is_mandate_escrow(&code[..code.len() - 1]));
        assert!(!is_mandate_escrow(&[]));
        code[0] ^= 1;
        assert!(!is_mandate_escrow(&code));
    }

    #[test]
    fn an_immutable_is_the_same_in_all_its_places() {
        let artifact = artifact();
        let code = deployed(&artifact);
        assert!(artifact.immutables.iter().any(|places| places.len() > 1));
        for places in artifact.immutables.iter().filter(|places| places.len() > 1) {
            for start in places {
                let mut crafted = code.clone();
                crafted[start + WORD - 1] ^= 1;
                assert!(!is_mandate_escrow(&crafted), "another word at {start}");
            }
        }
    }
}
