// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title PayeeAllowlist
/// @notice The payees that terms allow: a Merkle tree as OpenZeppelin's StandardMerkleTree builds it from `["address"]`.
library PayeeAllowlist {
    /// @dev Whether the proof leads from the payee to the root.
    function verify(bytes32 root, address payee, bytes32[] calldata proof) internal pure returns (bool) {
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(payee))));
        return MerkleProof.verifyCalldata(proof, root, leaf);
    }
}
