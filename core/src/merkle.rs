//! The Merkle tree of a mandate's payees: OpenZeppelin's `StandardMerkleTree` of `["address"]`.

use alloy_primitives::{Address, B256, keccak256};

/// `keccak256(keccak256(abi.encode(payee)))`.
#[must_use]
pub fn leaf(payee: Address) -> B256 {
    keccak256(keccak256(payee.into_word()))
}

fn parent(a: B256, b: B256) -> B256 {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    keccak256([low, high].concat())
}

/// A tree in heap order: node i has the children 2i + 1 and 2i + 2, the leaves stand at the end with
/// the smallest last.
#[derive(Clone, Debug)]
pub struct Tree(Vec<B256>);

impl Tree {
    /// The tree of these payees, in any order.
    #[must_use]
    pub fn of(payees: &[Address]) -> Self {
        Self(nodes(payees))
    }

    /// Its root; zero for none, which is the contract's "anyone".
    #[must_use]
    pub fn root(&self) -> B256 {
        self.0.first().copied().unwrap_or_default()
    }

    /// The proof that `payee` is in it, or `None` if it is not.
    #[must_use]
    pub fn proof(&self, payee: Address) -> Option<Vec<B256>> {
        let leaf = leaf(payee);
        let mut index = self.0.iter().rposition(|node| *node == leaf)?;
        let mut proof = Vec::new();
        while index > 0 {
            let sibling = if index.is_multiple_of(2) { index - 1 } else { index + 1 };
            proof.extend(self.0.get(sibling));
            index = (index - 1) / 2;
        }
        Some(proof)
    }
}

fn nodes(payees: &[Address]) -> Vec<B256> {
    let mut leaves: Vec<B256> = payees.iter().copied().map(leaf).collect();
    leaves.sort_unstable();
    leaves.dedup();
    // Built from the end: children first, then their parents.
    let mut reversed = leaves;
    let inner = reversed.len().saturating_sub(1);
    for pair in 0..inner {
        let children = reversed.get(2 * pair).zip(reversed.get(2 * pair + 1));
        let Some((right, left)) = children else { break };
        reversed.push(parent(*left, *right));
    }
    reversed.reverse();
    reversed
}

/// The root for these payees, in any order; zero for none, which is the contract's "anyone".
#[must_use]
pub fn root(payees: &[Address]) -> B256 {
    Tree::of(payees).root()
}

/// The proof that `payee` is among `payees`, or `None` if it is not.
#[must_use]
pub fn proof(payees: &[Address], payee: Address) -> Option<Vec<B256>> {
    Tree::of(payees).proof(payee)
}

/// Whether `proof` shows that `payee` is in the tree of `root`, as the contract checks it.
#[must_use]
pub fn verify(root: B256, payee: Address, proof: &[B256]) -> bool {
    proof.iter().fold(leaf(payee), |node, sibling| parent(node, *sibling)) == root
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn every_payee_is_proved_and_no_other(payees in vec(any::<[u8; 20]>(), 1..40), stranger: [u8; 20]) {
            let payees: Vec<Address> = payees.into_iter().map(Address::from).collect();
            let stranger = Address::from(stranger);
            for payee in &payees {
                prop_assert!(verify(root(&payees), *payee, &proof(&payees, *payee).unwrap()));
            }
            if !payees.contains(&stranger) {
                prop_assert_eq!(proof(&payees, stranger), None);
                prop_assert!(!verify(root(&payees), stranger, &proof(&payees, payees[0]).unwrap()));
            }
        }
    }
}
