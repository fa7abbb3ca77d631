// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {IMandateEscrow} from "../../src/interfaces/IMandateEscrow.sol";
import {IMandatePurse} from "../../src/interfaces/IMandatePurse.sol";
import {Status, Terms} from "../../src/interfaces/Types.sol";
import {svm} from "./Svm.sol";
import {SymbolicPurseToken} from "./SymbolicPurseToken.sol";

/// @notice P1 and P2 of a purse of arbitrary terms, whose escrow is in an arbitrary state. A proof makes one call with any
/// arguments, from anyone, at any time, and shows where what left the purse went; or, for a signature, what must be so for
/// a yes. As in Steps, any signature of the agent may be good or bad, and any payee allowed or not.
contract PurseStepsProof is Test {
    struct Any {
        Terms terms;
        bytes32 payees;
        address caller;
        uint40 time;
        uint256 balance;
    }

    bytes32 private constant TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    address private constant PURSE = address(0x9415e);

    SymbolicPurseToken private token;
    IMandateEscrow private escrow;
    address private implementation;
    IMandatePurse private purse = IMandatePurse(PURSE);

    function setUp() public {
        token = new SymbolicPurseToken();
        escrow = IMandateEscrow(_create(vm.getCode("MandateEscrow.sol:MandateEscrow"), address(token)));
        implementation = _create(vm.getCode("MandatePurse.sol:MandatePurse"), address(escrow));
        svm.enableSymbolicStorage(address(escrow));
    }

    function _create(bytes memory code, address argument) private returns (address deployed) {
        code = abi.encodePacked(code, abi.encode(argument));
        assembly ("memory-safe") {
            deployed := create(0, add(code, 0x20), mload(code))
        }
    }

    // ---------------------------------------------------------------- pay

    function check_isValidSignature_320(Any calldata any, bytes32 digest) external {
        _isValidSignature(any, digest, svm.createBytes(320, "signature"));
    }

    function check_isValidSignature_withAProof(Any calldata any, bytes32 digest) external {
        bytes memory tail = bytes.concat(hex"01", svm.createBytes(32, "proof"));
        _isValidSignature(any, digest, bytes.concat(svm.createBytes(320, "signature"), tail));
    }

    function check_isValidSignature_withAProofAndAWallet(Any calldata any, bytes32 digest) external {
        bytes memory tail = bytes.concat(hex"01", svm.createBytes(32, "proof"), svm.createBytes(65, "wallet"));
        _isValidSignature(any, digest, bytes.concat(svm.createBytes(320, "signature"), tail));
    }

    /// @dev P2. Yes means all of this.
    function _isValidSignature(Any calldata any, bytes32 digest, bytes memory signature) private {
        Terms memory terms = _begin(any);
        if (purse.isValidSignature(digest, signature) != 0x1626ba7e) return;

        (bytes32 payees, bytes32 r, bytes32 vs) = (_word(signature, 288), _word(signature, 224), _word(signature, 256));
        (uint256 to, uint256 value) = (uint256(_word(signature, 0)), uint256(_word(signature, 32)));
        bytes32 structHash = keccak256(
            abi.encode(TYPEHASH, PURSE, to, value, _word(signature, 64), _word(signature, 96), _word(signature, 128))
        );
        assertEq(digest, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)), "digest");

        terms.payees = payees;
        assertEq(uint8(escrow.mandateOf(escrow.idOf(terms)).status), uint8(Status.Open), "open");
        assertTrue(any.time >= terms.start && any.time < terms.expiry, "in time");
        assertTrue(value != 0 && (terms.perPayment == 0 || value <= terms.perPayment), "value");
        assertTrue(to != 0 && to != uint160(PURSE) && to != uint160(address(escrow)), "payee");
        assertTrue(to != uint160(address(token)) && to <= type(uint160).max, "payee");
        if (terms.guardian != address(0)) {
            uint8 v = uint8((uint256(vs) >> 255) + 27);
            address signer = ecrecover(digest, v, r, bytes32(uint256(vs) & (type(uint256).max >> 1)));
            assertTrue(signer != address(0) && escrow.isSubmitter(terms.guardian, signer), "a submitter");
        }
    }

    // ---------------------------------------------------------------- give back

    /// @dev P1. What leaves goes to the escrow or the operator, by the word of who may say so; no allowance stays.
    function check_giveBack(Any calldata any, uint64 amount, bytes32 ref) external {
        Terms memory terms = _begin(any);
        bool submitter = terms.guardian != address(0) && escrow.isSubmitter(terms.guardian, any.caller);
        vm.prank(any.caller);
        purse.giveBack(any.payees, amount, ref);

        assertTrue(any.caller == terms.operator || submitter, "by whom");
        assertEq(token.left(), amount, "how much");
        assertEq(token.received(address(escrow)) + token.received(terms.operator), amount, "where to");
        assertEq(token.allowance(PURSE, address(escrow)), 0, "allowance");
        assertTrue(escrow.mandateOf(escrow.idOf(terms)).status != Status.None, "of a mandate");
    }

    // ---------------------------------------------------------------- end

    /// @dev P1, P4.
    function check_sweep(Any calldata any) external {
        Terms memory terms = _begin(any);
        bool over = _isOver(any, terms);
        vm.prank(any.caller);
        purse.sweep(any.payees);
        assertTrue(over, "over");
        assertEq(token.received(terms.operator), any.balance, "all to the operator");
        assertEq(token.left(), any.balance, "nothing else");
    }

    function check_sweepTo(Any calldata any, address recipient) external {
        Terms memory terms = _begin(any);
        bool over = _isOver(any, terms);
        vm.prank(any.caller);
        purse.sweepTo(any.payees, recipient);
        assertTrue(over, "over");
        assertEq(any.caller, terms.operator, "by whom");
        assertTrue(recipient != address(0) && recipient != PURSE && recipient != address(escrow), "where to");
        assertTrue(recipient != address(token), "where to");
        assertEq(token.received(recipient), any.balance, "all to the recipient");
    }

    // ---------------------------------------------------------------- within

    /// @dev The purse of these terms, at a place of its own, since nothing depends on where it is. Nobody's key is at a
    /// contract's address, so none of them is the operator.
    function _begin(Any calldata any) private returns (Terms memory terms) {
        terms = any.terms;
        bytes memory packed = abi.encodePacked(terms.operator, terms.agent, terms.guardian, terms.cap, terms.perPayment);
        packed = bytes.concat(packed, abi.encodePacked(terms.windowCap, terms.window, terms.start, terms.expiry));
        packed = bytes.concat(packed, abi.encodePacked(terms.captureEnd, terms.intent, terms.refundsRestoreBudget));
        bytes memory head = abi.encodePacked(hex"363d3d373d3d3d363d73", implementation);
        vm.etch(PURSE, bytes.concat(head, hex"5af43d82803e903d91602b57fd5bf3", packed));
        terms.payees = any.payees;

        vm.assume(terms.operator != PURSE && terms.operator != address(escrow) && terms.operator != address(token));
        vm.assume(any.caller != PURSE && any.caller != address(escrow) && any.caller != address(token));
        vm.warp(any.time);
        token.setUp(PURSE, any.balance);
    }

    function _isOver(Any calldata any, Terms memory terms) private view returns (bool) {
        return any.time >= terms.expiry || escrow.mandateOf(escrow.idOf(terms)).status == Status.Ended;
    }

    function _word(bytes memory from, uint256 offset) private pure returns (bytes32 word) {
        assembly ("memory-safe") {
            word := mload(add(add(from, 0x20), offset))
        }
    }
}
