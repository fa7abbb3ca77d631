// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Terms} from "../../src/interfaces/Types.sol";
import {EscrowTest} from "./EscrowTest.sol";

/// @notice What operators sign, by the words of EIP-712 and of the token.
abstract contract OperatorTest is EscrowTest {
    uint256 internal constant ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;

    /// @dev Under the current domain. On the chain of deployment it is the mandate's id.
    function _termsDigest(Terms memory terms) internal view returns (bytes32) {
        return _idOf(terms);
    }

    function _revokeDigest(bytes32 id) internal view returns (bytes32) {
        return _digest(escrow.domainSeparator(), keccak256(abi.encode(keccak256("Revoke(bytes32 mandate)"), id)));
    }

    function _sweepDigest(bytes32 id, address recipient, uint40 deadline) internal view returns (bytes32) {
        bytes32 typeHash = keccak256("Sweep(bytes32 mandate,address recipient,uint40 deadline)");
        return _digest(escrow.domainSeparator(), keccak256(abi.encode(typeHash, id, recipient, deadline)));
    }

    function _rollDigest(bytes32 from, bytes32 to, uint64 maxPull) internal view returns (bytes32) {
        bytes32 typeHash = keccak256("Roll(bytes32 from,bytes32 to,uint64 maxPull)");
        return _digest(escrow.domainSeparator(), keccak256(abi.encode(typeHash, from, to, maxPull)));
    }

    /// @dev A permit of the operator to the escrow, for the token's next nonce.
    function _permit(uint256 value, uint256 deadline) internal view returns (bytes memory) {
        bytes32 structHash =
            keccak256(abi.encode(usdc.PERMIT_TYPEHASH(), operator, escrow, value, usdc.nonces(operator), deadline));
        return _sign(operatorKey, _digest(usdc.DOMAIN_SEPARATOR(), structHash));
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}
