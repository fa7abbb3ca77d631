// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Payment, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {TokenReturningFalse, TokenReturningNonsense, TokenRevertingWithABomb} from "../../mocks/HostileTokens.sol";

contract SpendTest is EscrowTest {
    function test_succeeds_withAnyPayment(address to, uint64 amount, uint32 nonce, bytes32 ref) public {
        vm.assume(to != address(0) && to != address(escrow) && to != address(usdc));
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        Payment memory payment = _paymentTo(terms, to, uint64(bound(amount, 1, CAP)), nonce);
        payment.ref = ref;
        _sign(terms, payment);

        _spend(terms, payment);

        assertEq(usdc.balanceOf(to), payment.amount);
        assertEq(usdc.balanceOf(address(escrow)), CAP - payment.amount);
        assertEq(escrow.mandateOf(id).remaining, CAP - payment.amount);
        assertEq(escrow.mandateOf(id).status, Status.Open);
    }

    function test_succeeds_atTypeMaxima() public {
        Terms memory terms = _terms();
        (terms.cap, terms.perPayment) = (type(uint64).max, type(uint64).max);
        (terms.expiry, terms.captureEnd) = (type(uint32).max, type(uint32).max);
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, type(uint64).max, type(uint32).max);
        payment.deadline = type(uint40).max;
        _sign(terms, payment);

        _spend(terms, payment);
        assertEq(usdc.balanceOf(payee), type(uint64).max);
        assertEq(escrow.mandateOf(id), Mandate(0, 0, 1 << 87, type(uint32).max - 87, Status.Open));
    }

    function test_emitsExpectedEvents() public {
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, 7, 3);
        _expectSpent(id, payment);
        _spend(terms, payment);
    }

    // ---------------------------------------------------------------- the mandate

    function test_reverts_whenTheMandateIsUnknown() public {
        Terms memory terms = _terms();
        Payment memory payment = _payment(terms, 1, 0);
        _assertRefused(terms, payment, Reason.UnknownMandate);

        // It was good all along, but for the opening.
        _open(terms);
        _spend(terms, payment);
        assertEq(usdc.balanceOf(payee), 1);
    }

    function test_reverts_whenAnotherTermIsClaimed() public {
        Terms memory terms = _terms();
        Payment memory payment = _payment(terms, 1, 0);
        _open(terms);
        terms.perPayment = 1;
        _assertRefused(terms, payment, Reason.UnknownMandate);
    }

    /// @dev I5.
    function test_reverts_whenTheMandateHasEnded() public {
        Terms memory terms = _terms();
        _open(terms);
        vm.prank(operator);
        escrow.revoke(terms);
        _assertRefused(terms, _payment(terms, 1, 0), Reason.Ended);
    }

    /// @dev I5.
    function test_reverts_beforeStartAndFromExpiryOn() public {
        Terms memory terms = _terms();
        terms.start = NOW + 10;
        _open(terms);

        vm.warp(terms.start - 1);
        _assertRefused(terms, _payment(terms, 1, 0), Reason.NotStarted);
        vm.warp(terms.start);
        _spend(terms, _payment(terms, 1, 0));
        vm.warp(terms.start + 1);
        _spend(terms, _payment(terms, 1, 1));
        vm.warp(terms.expiry - 1);
        _spend(terms, _payment(terms, 1, 2));
        vm.warp(terms.expiry);
        _assertRefused(terms, _payment(terms, 1, 3), Reason.Expired);
        vm.warp(terms.expiry + 1);
        _assertRefused(terms, _payment(terms, 1, 3), Reason.Expired);
    }

    // ---------------------------------------------------------------- who

    /// @dev A stolen agent key alone moves nothing.
    function test_reverts_whenTheSenderIsNoSubmitter(address sender) public {
        vm.assume(sender != submitter);
        Terms memory terms = _terms();
        _open(terms);
        Payment memory payment = _payment(terms, 1, 0);

        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.NotSubmitter));
        vm.prank(sender);
        escrow.spend(terms, payment);
    }

    function test_reverts_whenTheSubmitterWasRemoved() public {
        Terms memory terms = _terms();
        _open(terms);
        vm.prank(guardian);
        escrow.setSubmitter(submitter, false);
        _assertRefused(terms, _payment(terms, 1, 0), Reason.NotSubmitter);
    }

    function test_succeeds_fromAnyoneWithoutAGuardian(address sender) public {
        Terms memory terms = _terms();
        terms.guardian = address(0);
        _open(terms);
        Payment memory payment = _payment(terms, 1, 0);
        vm.prank(sender);
        escrow.spend(terms, payment);
        assertEq(usdc.balanceOf(payee), 1);
    }

    // ---------------------------------------------------------------- the payment

    function test_reverts_fromItsDeadlineOn() public {
        Terms memory terms = _terms();
        _open(terms);
        Payment memory payment = _payment(terms, 1, 0);
        payment.deadline = NOW + 10;
        _sign(terms, payment);

        vm.warp(payment.deadline);
        _assertRefused(terms, payment, Reason.DeadlinePassed);
        vm.warp(payment.deadline + 1);
        _assertRefused(terms, payment, Reason.DeadlinePassed);
        vm.warp(payment.deadline - 1);
        _spend(terms, payment);
    }

    function test_reverts_whenAmountIsZero() public {
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        _assertRefused(terms, _payment(terms, 0, 0), Reason.AmountZero);
        assertEq(escrow.mandateOf(id).nonceBits, 0);
    }

    function test_reverts_whenThePayeeIsZeroOrTheEscrowOrTheToken() public {
        Terms memory terms = _terms();
        _open(terms);
        _assertRefused(terms, _paymentTo(terms, address(0), 1, 0), Reason.BadPayee);
        _assertRefused(terms, _paymentTo(terms, address(escrow), 1, 0), Reason.BadPayee);
        _assertRefused(terms, _paymentTo(terms, address(usdc), 1, 0), Reason.BadPayee);
    }

    function test_reverts_abovePerPayment() public {
        Terms memory terms = _terms();
        terms.perPayment = 10;
        _open(terms);
        _assertRefused(terms, _payment(terms, 11, 0), Reason.AbovePerPayment);
        _assertRefused(terms, _payment(terms, type(uint64).max, 0), Reason.AbovePerPayment);
        _spend(terms, _payment(terms, 10, 0));
    }

    /// @dev I2: the last unit can be spent, and not one more.
    function test_reverts_aboveWhatRemains(uint64 first) public {
        first = uint64(bound(first, 1, CAP - 1));
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        _spend(terms, _payment(terms, first, 0));

        _assertRefused(terms, _payment(terms, CAP - first + 1, 1), Reason.InsufficientBudget);
        _assertRefused(terms, _payment(terms, type(uint64).max, 1), Reason.InsufficientBudget);
        _spend(terms, _payment(terms, CAP - first, 1));
        assertEq(escrow.mandateOf(id).remaining, 0);
        _assertRefused(terms, _payment(terms, 1, 2), Reason.InsufficientBudget);
    }

    /// @dev I1: another mandate's money is out of reach.
    function test_reverts_aboveWhatRemains_whileOthersHaveMore() public {
        Terms memory terms = _terms();
        _open(terms);
        Terms memory others = _terms();
        others.intent = keccak256("others");
        _open(others);
        usdc.mint(address(escrow), CAP);
        _assertRefused(terms, _payment(terms, CAP + 1, 0), Reason.InsufficientBudget);
    }

    // ---------------------------------------------------------------- token

    function test_reverts_whenTheTokenRefuses() public {
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, 5, 0);

        usdc.blacklist(payee);
        _assertTransferFails(id, terms, payment);
        usdc.unBlacklist(payee);
        usdc.blacklist(address(escrow));
        _assertTransferFails(id, terms, payment);
        usdc.unBlacklist(address(escrow));
        usdc.pause();
        _assertTransferFails(id, terms, payment);
        usdc.unpause();

        _spend(terms, payment);
        assertEq(usdc.balanceOf(payee), 5);
    }

    function test_reverts_whenTheTokenIsHostile() public {
        Terms memory terms = _terms();
        bytes32 id = _open(terms);
        Payment memory payment = _payment(terms, 5, 0);

        _upgradeToken(address(new TokenReturningFalse()));
        _assertTransferFails(id, terms, payment);
        _upgradeToken(address(new TokenReturningNonsense()));
        _assertTransferFails(id, terms, payment);
        _upgradeToken(address(new TokenRevertingWithABomb()));
        _assertTransferFails(id, terms, payment);
        vm.etch(address(usdc), "");
        _assertTransferFails(id, terms, payment);
    }

    function _assertTransferFails(bytes32 id, Terms memory terms, Payment memory payment) private {
        assertEq(_canSpend(terms, payment), Reason.None);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.TransferFailed));
        _spend(terms, payment);
        assertEq(escrow.mandateOf(id), Mandate(CAP, 0, 0, 0, Status.Open));
    }
}
