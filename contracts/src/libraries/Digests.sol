// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Hold, Payment, Terms} from "../interfaces/Types.sol";

/// @title Digests
/// @notice EIP-712 digests of what operators and agents sign.
/// @dev Static structs in calldata have the very layout that EIP-712 hashes, so they are copied as they lie. Dirty upper
/// bits give a digest of their own; no such terms can be opened, since reading a dirty field reverts.
library Digests {
    bytes32 internal constant TERMS_TYPEHASH = keccak256(
        "Terms(address operator,address agent,address guardian,uint64 cap,uint64 perPayment,uint64 windowCap,uint32 window,uint40 start,uint40 expiry,uint40 captureEnd,bytes32 payees,bytes32 intent,bool refundsRestoreBudget)"
    );
    bytes32 internal constant SPEND_TYPEHASH =
        keccak256("Spend(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,bytes32 ref)");
    bytes32 internal constant HOLD_TYPEHASH = keccak256(
        "Hold(bytes32 mandate,address payee,uint64 amount,uint32 nonce,uint40 deadline,uint40 captureBy,bytes32 ref)"
    );
    bytes32 internal constant REVOKE_TYPEHASH = keccak256("Revoke(bytes32 mandate)");
    bytes32 internal constant ROLL_TYPEHASH = keccak256("Roll(bytes32 from,bytes32 to,uint64 maxPull)");
    bytes32 internal constant SWEEP_TYPEHASH = keccak256("Sweep(bytes32 mandate,address recipient,uint40 deadline)");

    /// @dev The digest that the operator signs to open; under the domain of deployment it is the mandate's id.
    function ofTerms(bytes32 domain, Terms calldata terms) internal pure returns (bytes32) {
        bytes32 hash = TERMS_TYPEHASH;
        assembly ("memory-safe") {
            let words := mload(0x40)
            mstore(words, hash)
            calldatacopy(add(words, 0x20), terms, 0x1a0) // all 13 fields
            hash := keccak256(words, 0x1c0)
        }
        return MessageHashUtils.toTypedDataHash(domain, hash);
    }

    /// @dev The digest that the agent signs to pay.
    function ofSpend(bytes32 domain, bytes32 mandate, Payment calldata payment) internal pure returns (bytes32) {
        bytes32 hash = SPEND_TYPEHASH;
        assembly ("memory-safe") {
            let words := mload(0x40)
            mstore(words, hash)
            mstore(add(words, 0x20), mandate)
            calldatacopy(add(words, 0x40), payment, 0xa0) // payee, amount, nonce, deadline, ref
            hash := keccak256(words, 0xe0)
        }
        return MessageHashUtils.toTypedDataHash(domain, hash);
    }

    /// @dev The digest that the agent signs to set an amount aside.
    function ofHold(bytes32 domain, bytes32 mandate, Hold calldata hold) internal pure returns (bytes32) {
        Payment calldata p = hold.payment;
        bytes32 structHash = keccak256(
            abi.encode(HOLD_TYPEHASH, mandate, p.payee, p.amount, p.nonce, p.deadline, hold.captureBy, p.ref)
        );
        return MessageHashUtils.toTypedDataHash(domain, structHash);
    }

    /// @dev The digest that the operator signs to let anyone end the mandate.
    function ofRevoke(bytes32 domain, bytes32 mandate) internal pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domain, keccak256(abi.encode(REVOKE_TYPEHASH, mandate)));
    }

    /// @dev The digest that the operator signs to let anyone replace one mandate by another.
    function ofRoll(bytes32 domain, bytes32 from, bytes32 to, uint64 maxPull) internal pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domain, keccak256(abi.encode(ROLL_TYPEHASH, from, to, maxPull)));
    }

    /// @dev The digest that the operator signs to let anyone return the rest to another recipient.
    function ofSweep(bytes32 domain, bytes32 mandate, address to, uint40 deadline) internal pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domain, keccak256(abi.encode(SWEEP_TYPEHASH, mandate, to, deadline)));
    }
}
