// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Group, Hold, Payment, Row, Status, Terms} from "../../src/interfaces/Types.sol";
import {Step} from "./Step.sol";
import {svm} from "./Svm.sol";

/// @notice I2, I3 and I4 over every verb. A call that reverts changes nothing and is not looked at; that every verb succeeds
/// sometimes, Halmos sees to: a proof all of whose paths revert fails.
contract StepsProof is Step {
    // ---------------------------------------------------------------- open

    function check_open(Any calldata any) external {
        State memory before = _begin(any);
        escrow.open(any.terms);
        _end(any, before, false);
    }

    function check_openWithAuthorization(Any calldata any, uint256 validAfter, uint256 validBefore) external {
        State memory before = _begin(any);
        escrow.openWithAuthorization(any.terms, validAfter, validBefore, "");
        _end(any, before, false);
    }

    function check_openWithPermit(Any calldata any, uint256 deadline) external {
        bytes memory signature = svm.createBytes(65, "signature");
        State memory before = _begin(any);
        escrow.openWithPermit(any.terms, deadline, "", signature);
        _end(any, before, false);
    }

    // ---------------------------------------------------------------- pay

    function check_spend(Any calldata any, Payment calldata payment) external {
        vm.assume(payment.nonce == any.nonce);
        State memory before = _begin(any);
        escrow.spend(any.terms, payment);
        _endUsing(any, before, false);
    }

    function check_spend_withProofAndSignature(Any calldata any, Payment calldata payment, bytes32 a, bytes32 b)
        external
    {
        vm.assume(payment.nonce == any.nonce);
        bytes32[] memory proof = new bytes32[](2);
        (proof[0], proof[1]) = (a, b);
        bytes memory signature = svm.createBytes(65, "signature");
        State memory before = _begin(any);
        escrow.spend(any.terms, payment, proof, signature);
        _endUsing(any, before, false);
    }

    function check_settle_twoNonces(Any calldata any, Payment calldata a, Payment calldata b) external {
        vm.assume(a.nonce == any.nonce && b.nonce == any.otherNonce);
        _plain(any.terms);
        State memory before = _begin(any);
        escrow.settle(_oneGroup(any.terms, a, b), new bytes32[][](0), new bytes[](0));
        _endUsingTwo(any, before, a, b);
    }

    function check_settle_oneNonce(Any calldata any, Payment calldata a, Payment calldata b) external {
        vm.assume(a.nonce == any.nonce && b.nonce == any.nonce);
        _plain(any.terms);
        State memory before = _begin(any);
        escrow.settle(_oneGroup(any.terms, a, b), new bytes32[][](0), new bytes[](0));
        State memory state = _end(any, before, false);
        assertLe(token.out(), a.amount > b.amount ? a.amount : b.amount, "I3: one of them");
        assertTrue(_implies(token.out() != 0, !_used(before.mandate, any.nonce)), "I3: unused before");
        assertTrue(_implies(token.out() != 0, _used(state.mandate, any.nonce)), "I3: used afterwards");
    }

    function check_settle_twoGroupsOfOneMandate(Any calldata any, Payment calldata a, Payment calldata b) external {
        vm.assume(a.nonce == any.nonce && b.nonce == any.otherNonce);
        _plain(any.terms);
        Group[] memory groups = _twoGroups(any.terms, a, any.terms, b);
        State memory before = _begin(any);
        escrow.settle(groups, new bytes32[][](2), new bytes[](2));
        _endUsingTwo(any, before, a, b);
    }

    function check_settle_twoMandates(Any calldata any, Terms calldata other, Payment calldata a, Payment calldata b)
        external
    {
        vm.assume(a.nonce == any.nonce && escrow.idOf(other) == any.otherMandate);
        _plain(any.terms);
        _plain(other);
        Group[] memory groups = _twoGroups(any.terms, a, other, b);
        State memory before = _begin(any);
        escrow.settle(groups, new bytes32[][](0), new bytes[](0));

        State memory state = _state(any, escrow.idOf(any.terms));
        assertLe(_has(state.mandate), _has(before.mandate), "I2");
        assertLe(_has(state.otherMandate), _has(before.otherMandate), "I2");
        uint256 paid = _has(before.mandate) - _has(state.mandate);
        uint256 otherPaid = _has(before.otherMandate) - _has(state.otherMandate);
        assertEq(paid + otherPaid, token.out(), "I2");
        assertTrue(paid == 0 || paid == a.amount, "I2: its row");
        assertTrue(otherPaid == 0 || otherPaid == b.amount, "I2: its row");
        assertTrue(_implies(paid != 0, !_used(before.mandate, a.nonce)), "I3: unused before");
        assertTrue(_implies(paid != 0, _used(state.mandate, a.nonce)), "I3: used afterwards");
        assertTrue(_implies(otherPaid != 0, !_used(before.otherMandate, b.nonce)), "I3: unused before");
        assertTrue(_implies(otherPaid != 0, _used(state.otherMandate, b.nonce)), "I3: used afterwards");
    }

    function check_settleTo(Any calldata any, address payee, Payment calldata a, Payment calldata b) external {
        vm.assume(a.nonce == any.nonce && b.nonce == any.otherNonce);
        _plain(any.terms);
        Row[] memory rows = new Row[](2);
        (rows[0], rows[1]) = (Row(any.terms, a), Row(any.terms, b));
        State memory before = _begin(any);
        escrow.settleTo(payee, rows, new bytes32[][](0), new bytes[](0));
        _endUsingTwo(any, before, a, b);
    }

    /// @dev Rules that only refuse, as the proofs of `spend` show, would multiply the paths of two rows: none of them here.
    function _plain(Terms calldata terms) private pure {
        vm.assume(terms.guardian == address(0) && terms.payees == 0 && terms.window == 0 && terms.perPayment == 0);
    }

    function _oneGroup(Terms calldata terms, Payment calldata a, Payment calldata b)
        private
        pure
        returns (Group[] memory groups)
    {
        groups = new Group[](1);
        groups[0] = Group(terms, new Payment[](2));
        (groups[0].payments[0], groups[0].payments[1]) = (a, b);
    }

    function _twoGroups(Terms calldata terms, Payment calldata a, Terms calldata others, Payment calldata b)
        private
        pure
        returns (Group[] memory groups)
    {
        groups = new Group[](2);
        (groups[0], groups[1]) = (Group(terms, new Payment[](1)), Group(others, new Payment[](1)));
        (groups[0].payments[0], groups[1].payments[0]) = (a, b);
    }

    // ---------------------------------------------------------------- hold

    function check_hold(Any calldata any, Hold calldata hold) external {
        vm.assume(hold.payment.nonce == any.nonce);
        State memory before = _begin(any);
        escrow.hold(any.terms, hold);
        _endUsing(any, before, true);
    }

    function check_hold_withProofAndSignature(Any calldata any, Hold calldata hold, bytes32 a, bytes32 b) external {
        vm.assume(hold.payment.nonce == any.nonce);
        bytes32[] memory proof = new bytes32[](2);
        (proof[0], proof[1]) = (a, b);
        bytes memory signature = svm.createBytes(65, "signature");
        State memory before = _begin(any);
        escrow.hold(any.terms, hold, proof, signature);
        _endUsing(any, before, true);
    }

    function check_capture(Any calldata any, uint64 expectedHeld, uint64 amount, bool close) external {
        State memory before = _begin(any);
        escrow.capture(any.terms, any.nonce, expectedHeld, amount, close);
        _end(any, before, true);
        assertLt(any.time, before.hold.captureBy, "I4: captured in time");
        assertLe(token.out(), before.hold.left, "I4: captured at most what is held");
    }

    function check_release(Any calldata any) external {
        State memory before = _begin(any);
        escrow.release(any.terms, any.nonce);
        _end(any, before, true);
        assertEq(token.out(), 0);
    }

    // ---------------------------------------------------------------- refund

    function check_refund(Any calldata any, uint64 amount, bytes32 ref) external {
        State memory before = _begin(any);
        escrow.refund(any.terms, amount, ref);
        _end(any, before, false);
    }

    // ---------------------------------------------------------------- end

    function check_revoke(Any calldata any) external {
        State memory before = _begin(any);
        escrow.revoke(any.terms);
        _end(any, before, false);
    }

    function check_revokeWithSignature(Any calldata any) external {
        bytes memory signature = svm.createBytes(65, "signature");
        State memory before = _begin(any);
        escrow.revokeWithSignature(any.terms, signature);
        _end(any, before, false);
    }

    function check_sweep(Any calldata any) external {
        State memory before = _begin(any);
        escrow.sweep(any.terms);
        _end(any, before, false);
    }

    function check_sweepTo(Any calldata any, address recipient, uint40 deadline) external {
        bytes memory signature = svm.createBytes(65, "signature");
        State memory before = _begin(any);
        escrow.sweepTo(any.terms, recipient, deadline, signature);
        _end(any, before, false);
    }

    /// @dev Ends one mandate and opens another one: what the first had left and what came in is the second's cap and what went
    /// out, and no more came in than was allowed. The old one's holds and nonces stay.
    function check_roll(Any calldata any, Terms calldata to, uint64 maxPull) external {
        bytes memory signature = svm.createBytes(65, "signature");
        vm.assume(escrow.idOf(to) == any.otherMandate);
        State memory before = _begin(any);
        escrow.roll(any.terms, to, maxPull, signature);

        State memory state = _state(any, escrow.idOf(any.terms));
        assertEq(uint256(before.mandate.remaining) + token.into(), uint256(to.cap) + token.out(), "I2");
        assertLe(token.into(), maxPull, "at most maxPull");
        assertTrue(before.mandate.status == Status.Open && state.mandate.status == Status.Ended, "I5: ended");
        assertTrue(before.otherMandate.status == Status.None && state.otherMandate.status == Status.Open, "I5: opened");
        assertEq(state.otherMandate.remaining, to.cap);
        assertEq(uint256(state.otherMandate.held) + state.otherMandate.nonceBits + state.otherMandate.nonceBase, 0);
        assertEq(state.mandate.remaining, 0);
        assertEq(state.mandate.held, before.mandate.held, "I4");
        assertEq(state.mandate.nonceBits, before.mandate.nonceBits, "I3");
        assertEq(state.mandate.nonceBase, before.mandate.nonceBase, "I3");
        assertEq(state.hold.left, before.hold.left, "I4: hold");
        assertEq(state.otherHold.left, before.otherHold.left, "I4: hold");
        assertEq(state.otherMandatesHold.left, before.otherMandatesHold.left, "I4: hold");
    }

    // ---------------------------------------------------------------- guardian

    function check_setSubmitter(Any calldata any, address submitter, bool allowed) external {
        State memory before = _begin(any);
        escrow.setSubmitter(submitter, allowed);
        _end(any, before, false);
    }

    /// @dev After what uses `any.nonce`, and only if it was unused.
    function _endUsing(Any calldata any, State memory before, bool holds) private view {
        State memory state = _end(any, before, holds);
        assertFalse(_used(before.mandate, any.nonce), "I3: unused before");
        assertTrue(_used(state.mandate, any.nonce), "I3: used afterwards");
    }

    /// @dev After what uses the nonces of `a` and `b` at most, each only if it was unused.
    function _endUsingTwo(Any calldata any, State memory before, Payment calldata a, Payment calldata b) private view {
        State memory state = _end(any, before, false);
        uint256 most = 0;
        if (!_used(before.mandate, a.nonce)) most += a.amount;
        if (!_used(before.mandate, b.nonce)) most += b.amount;
        assertLe(token.out(), most, "I3: unused before");
        assertTrue(_implies(token.out() > b.amount, _used(state.mandate, a.nonce)), "I3: used afterwards");
        assertTrue(_implies(token.out() > a.amount, _used(state.mandate, b.nonce)), "I3: used afterwards");
    }
}
