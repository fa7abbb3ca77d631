// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Hold, Reason, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";

/// @notice The view and the verb answer alike; each test of a refusal asks both. Here: by chance, and in order.
contract CanHoldTest is EscrowTest {
    /// @dev What goes wrong does so one time in eight, so that some holds pass and some have several faults.
    struct Case {
        uint8 unopened;
        uint8 revoked;
        uint8 unknownSender;
        uint8 badSignature;
        uint8 zeroAmount;
        uint8 payee;
        uint64 amount;
        uint64 perPayment;
        uint64 windowCap;
        uint32 nonce;
        uint40 deadline;
        uint40 captureBy;
        uint40 time;
        bool withSideArguments;
    }

    function _draw(Case memory c) private view returns (Terms memory terms, Hold memory hold) {
        terms = _terms();
        terms.start = NOW + 10;
        terms.expiry = NOW + 90;
        terms.captureEnd = NOW + 110;
        terms.perPayment = uint64(bound(c.perPayment, 0, CAP));
        if (c.windowCap % 2 == 0) (terms.window, terms.windowCap) = (60, uint64(bound(c.windowCap, CAP / 2, CAP)));

        address[4] memory payees = [payee, address(0), address(escrow), address(usdc)];
        hold.payment.payee = payees[c.payee % 24 < 4 ? c.payee % 24 : 0];
        hold.payment.amount = c.zeroAmount % 8 == 0 ? 0 : uint64(bound(c.amount, 1, CAP + CAP / 8));
        hold.payment.nonce = c.nonce % 100;
        hold.payment.deadline = NOW + 20 + c.deadline % 100;
        hold.captureBy = NOW + 20 + c.captureBy % 100;
        _sign(terms, hold);
        if (c.badSignature % 8 == 0) hold.payment.r = ~hold.payment.r;
    }

    function _prepare(Case memory c, Terms memory terms) private {
        if (c.unopened % 8 != 0) {
            _open(terms);
            vm.warp(terms.start);
            _spend(terms, _payment(terms, 1, 90));
            if (c.revoked % 8 == 0) {
                vm.prank(operator);
                escrow.revoke(terms);
            }
        }
        vm.warp(NOW + c.time % 100);
    }

    function test_agreesWithHold(Case memory c) public {
        (Terms memory terms, Hold memory hold) = _draw(c);
        _prepare(c, terms);
        address sender = c.unknownSender % 8 == 0 ? stranger : submitter;

        Reason reason = escrow.canHold(terms, hold, new bytes32[](0), "", sender);
        if (reason != Reason.None) vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        vm.prank(sender);
        if (c.withSideArguments) escrow.hold(terms, hold, new bytes32[](0), "");
        else escrow.hold(terms, hold);
    }

    /// @dev A hold with every fault at once; they are mended in the order in which they are asked.
    function test_asksInOrder() public {
        Terms memory terms = _terms();
        terms.start = NOW + 10;
        terms.expiry = NOW + 20;
        terms.perPayment = CAP / 2;
        (terms.window, terms.windowCap) = (6, CAP - 2);
        terms.payees = keccak256(bytes.concat(keccak256(abi.encode(payee))));
        Hold memory hold;
        address sender = stranger;
        bytes32[] memory wrongProof = new bytes32[](1);
        bytes32[] memory proof = new bytes32[](0);

        _assertReason(terms, hold, wrongProof, sender, Reason.UnknownMandate);
        _open(terms);
        uint256 open = vm.snapshotState();
        vm.prank(operator);
        escrow.revoke(terms);
        _assertReason(terms, hold, wrongProof, sender, Reason.Ended);
        vm.revertToState(open);

        _assertReason(terms, hold, wrongProof, sender, Reason.NotSubmitter);
        sender = submitter;
        _assertReason(terms, hold, wrongProof, sender, Reason.NotStarted);
        vm.warp(terms.expiry);
        _assertReason(terms, hold, wrongProof, sender, Reason.Expired);
        vm.warp(terms.start);
        _assertReason(terms, hold, wrongProof, sender, Reason.CaptureByPassed);
        hold.captureBy = terms.captureEnd + 1;
        _assertReason(terms, hold, wrongProof, sender, Reason.CaptureByTooLate);
        hold.captureBy = terms.captureEnd;
        _assertReason(terms, hold, wrongProof, sender, Reason.DeadlinePassed);
        hold.payment.deadline = terms.start + 8;
        _assertReason(terms, hold, wrongProof, sender, Reason.AmountZero);
        hold.payment.amount = CAP + 1;
        _assertReason(terms, hold, wrongProof, sender, Reason.BadPayee);
        hold.payment.payee = payee;
        _assertReason(terms, hold, wrongProof, sender, Reason.PayeeNotAllowed);
        _assertReason(terms, hold, proof, sender, Reason.AbovePerPayment);

        _setAside(terms, CAP / 2, 88);
        _setAside(terms, CAP / 2 - 2, 89);
        hold.payment.amount = CAP / 2;
        _assertReason(terms, hold, proof, sender, Reason.InsufficientBudget);
        hold.payment.amount = 1;
        _assertReason(terms, hold, proof, sender, Reason.NonceRetired);
        hold.payment.nonce = 88;
        _assertReason(terms, hold, proof, sender, Reason.NonceUsed);
        hold.payment.nonce = 87;
        _assertReason(terms, hold, proof, sender, Reason.WindowExceeded);
        vm.warp(terms.start + 7);
        _assertReason(terms, hold, proof, sender, Reason.BadSignature);
        _sign(terms, hold);
        _assertReason(terms, hold, proof, sender, Reason.None);
    }

    function _setAside(Terms memory terms, uint64 amount, uint32 nonce) private {
        Hold memory hold = _holdOf(terms, amount, nonce);
        vm.prank(submitter);
        escrow.hold(terms, hold, new bytes32[](0), "");
    }

    function _assertReason(Terms memory terms, Hold memory hold, bytes32[] memory proof, address sender, Reason reason)
        private
    {
        assertEq(escrow.canHold(terms, hold, proof, "", sender), reason);
        if (reason != Reason.None) vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        vm.prank(sender);
        escrow.hold(terms, hold, proof, "");
    }
}
