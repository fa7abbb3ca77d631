// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Payment, Reason, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";

/// @notice The view and the verbs answer alike; each test of a refusal asks both. Here: by chance, and in order.
contract CanSpendTest is EscrowTest {
    /// @dev What goes wrong does so one time in eight, so that some payments pass and some have several faults.
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
        uint40 time;
    }

    function _draw(Case memory c) private view returns (Terms memory terms, Payment memory payment) {
        terms = _terms();
        terms.start = NOW + 10;
        terms.expiry = NOW + 90;
        terms.perPayment = uint64(bound(c.perPayment, 0, CAP));
        if (c.windowCap % 2 == 0) (terms.window, terms.windowCap) = (60, uint64(bound(c.windowCap, CAP / 2, CAP)));

        address[4] memory payees = [payee, address(0), address(escrow), address(usdc)];
        payment.payee = payees[c.payee % 24 < 4 ? c.payee % 24 : 0];
        payment.amount = c.zeroAmount % 8 == 0 ? 0 : uint64(bound(c.amount, 1, CAP + CAP / 8));
        payment.nonce = c.nonce % 100;
        payment.deadline = NOW + 20 + c.deadline % 100;
        _sign(terms, payment);
        if (c.badSignature % 8 == 0) payment.r = ~payment.r;
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

    function test_agreesWithSpend(Case memory c) public {
        (Terms memory terms, Payment memory payment) = _draw(c);
        _prepare(c, terms);
        address sender = c.unknownSender % 8 == 0 ? stranger : submitter;

        Reason reason = escrow.canSpend(terms, payment, new bytes32[](0), "", sender);
        if (reason != Reason.None) vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        vm.prank(sender);
        escrow.spend(terms, payment);
    }

    function test_agreesWithSettle(Case memory c) public {
        (Terms memory terms, Payment memory payment) = _draw(c);
        _prepare(c, terms);

        Reason reason = _canSpend(terms, payment);
        if (reason == Reason.None) _expectSpent(_idOf(terms), payment);
        else _expectSkipped(_idOf(terms), payment.nonce, reason);
        assertEq(_settle(terms, _rows(payment)), reason == Reason.None ? 1 : 0);
    }

    /// @dev A payment with every fault at once; they are mended in the order of the enum.
    function test_asksInTheOrderOfReasons() public {
        Terms memory terms = _terms();
        terms.start = NOW + 10;
        terms.expiry = NOW + 20;
        terms.perPayment = CAP / 2;
        (terms.window, terms.windowCap) = (6, CAP - 2);
        terms.payees = keccak256(bytes.concat(keccak256(abi.encode(payee))));
        Payment memory payment;
        address sender = stranger;
        bytes32[] memory wrongProof = new bytes32[](1);
        bytes32[] memory proof = new bytes32[](0);

        _assertReason(terms, payment, wrongProof, sender, Reason.UnknownMandate);
        _open(terms);
        uint256 open = vm.snapshotState();
        vm.prank(operator);
        escrow.revoke(terms);
        _assertReason(terms, payment, wrongProof, sender, Reason.Ended);
        vm.revertToState(open);

        _assertReason(terms, payment, wrongProof, sender, Reason.NotSubmitter);
        sender = submitter;
        _assertReason(terms, payment, wrongProof, sender, Reason.NotStarted);
        vm.warp(terms.expiry);
        _assertReason(terms, payment, wrongProof, sender, Reason.Expired);
        vm.warp(terms.start);
        _assertReason(terms, payment, wrongProof, sender, Reason.DeadlinePassed);
        payment.deadline = terms.start + 8;
        _assertReason(terms, payment, wrongProof, sender, Reason.AmountZero);
        payment.amount = CAP + 1;
        _assertReason(terms, payment, wrongProof, sender, Reason.BadPayee);
        payment.payee = payee;
        _assertReason(terms, payment, wrongProof, sender, Reason.PayeeNotAllowed);
        _assertReason(terms, payment, proof, sender, Reason.AbovePerPayment);

        _pay(terms, CAP / 2, 88);
        _pay(terms, CAP / 2 - 2, 89);
        payment.amount = CAP / 2;
        _assertReason(terms, payment, proof, sender, Reason.InsufficientBudget);
        payment.amount = 1;
        _assertReason(terms, payment, proof, sender, Reason.NonceRetired);
        payment.nonce = 88;
        _assertReason(terms, payment, proof, sender, Reason.NonceUsed);
        payment.nonce = 87;
        _assertReason(terms, payment, proof, sender, Reason.WindowExceeded);
        vm.warp(terms.start + 7);
        _assertReason(terms, payment, proof, sender, Reason.BadSignature);
        _sign(terms, payment);
        _assertReason(terms, payment, proof, sender, Reason.None);
    }

    function _pay(Terms memory terms, uint64 amount, uint32 nonce) private {
        Payment memory payment = _payment(terms, amount, nonce);
        vm.prank(submitter);
        escrow.spend(terms, payment, new bytes32[](0), "");
    }

    function _assertReason(
        Terms memory terms,
        Payment memory payment,
        bytes32[] memory proof,
        address sender,
        Reason reason
    ) private {
        assertEq(escrow.canSpend(terms, payment, proof, "", sender), reason);
        if (reason != Reason.None) vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, reason));
        vm.prank(sender);
        escrow.spend(terms, payment, proof, "");
    }
}
