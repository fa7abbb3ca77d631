// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Mandate, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";
import {
    TokenDeliveringMore,
    TokenFeigningPulls,
    TokenReturningFalseToPulls,
    TokenTakingAFee
} from "../../mocks/HostileTokens.sol";

contract RefundTest is EscrowTest {
    bytes32 private constant REF = keccak256("order 17 was sent back");

    Terms private terms;
    bytes32 private id;

    function setUp() public override {
        super.setUp();
        terms = _terms();
        terms.refundsRestoreBudget = true;
        id = _open(terms);
    }

    function _refund(uint64 amount) private {
        _refundBy(payee, amount);
    }

    function _refundBy(address payer, uint64 amount) private {
        _fund(payer, amount);
        vm.prank(payer);
        escrow.refund(terms, amount, REF);
    }

    function _expectRefunded(address payer, uint64 amount, uint64 restored) private {
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Refunded(id, payer, amount, restored, REF);
    }

    // ---------------------------------------------------------------- to the budget

    function test_succeeds_fromAnyone(address payer, uint64 spent, uint64 amount) public {
        vm.assume(payer != address(0) && payer != address(escrow) && payer != address(usdc));
        spent = uint64(bound(spent, 1, CAP));
        amount = uint64(bound(amount, 1, spent));
        _spend(terms, _payment(terms, spent, 0));
        uint256 before = usdc.balanceOf(payer);
        _refundBy(payer, amount);

        assertEq(escrow.mandateOf(id), Mandate(CAP - spent + amount, 0, 1, 0, Status.Open));
        assertEq(usdc.balanceOf(address(escrow)), CAP - spent + amount);
        assertEq(usdc.balanceOf(payer), before);
        assertEq(usdc.balanceOf(operator), payer == operator ? before : 0);
    }

    function test_emitsExpectedEvents() public {
        _spend(terms, _payment(terms, 9, 0));
        _fund(payee, 20);
        vm.startPrank(payee);
        _expectRefunded(payee, 5, 5);
        escrow.refund(terms, 5, REF);
        _expectRefunded(payee, 6, 4);
        escrow.refund(terms, 6, REF);
        _expectRefunded(payee, 7, 0);
        escrow.refund(terms, 7, REF);
    }

    /// @dev I2: the budget never grows above what the cap leaves beside what is held; the rest goes to the operator.
    function test_restoresUpToTheCap(uint64 spent, uint64 held, uint64 captured, uint64 amount) public {
        held = uint64(bound(held, 1, CAP - 1));
        spent = uint64(bound(spent, 1, CAP - held));
        captured = uint64(bound(captured, 1, held));
        amount = uint64(bound(amount, 1, 2 * CAP));
        _hold(terms, _holdOf(terms, held, 0));
        _spend(terms, _payment(terms, spent, 1));
        _capture(terms, 0, held, captured, false);
        uint64 room = spent + captured;
        uint64 restored = amount < room ? amount : room;

        _fund(payee, amount);
        _expectRefunded(payee, amount, restored);
        vm.prank(payee);
        escrow.refund(terms, amount, REF);

        Mandate memory mandate = escrow.mandateOf(id);
        assertEq(mandate.remaining, CAP - held - spent + restored);
        assertEq(mandate.held, held - captured);
        assertEq(usdc.balanceOf(operator), amount - restored);
        assertEq(usdc.balanceOf(address(escrow)), mandate.remaining + mandate.held);
    }

    /// @dev The cap bounds what has left, net: what came back can be spent again, and be swept.
    function test_canBeSpentAgain() public {
        for (uint32 i = 0; i < 5; ++i) {
            _spend(terms, _payment(terms, CAP, i));
            _refund(CAP);
        }
        _spend(terms, _payment(terms, 5, 5));
        _assertRefused(terms, _payment(terms, CAP - 4, 6), Reason.InsufficientBudget);
        vm.warp(terms.expiry);
        assertEq(escrow.sweep(terms), CAP - 5);
    }

    /// @dev I3: a refund gives back money, no nonce.
    function test_givesNoNonceBack() public {
        _spend(terms, _payment(terms, 5, 0));
        _refund(5);
        _assertRefused(terms, _payment(terms, 5, 0), Reason.NonceUsed);
    }

    /// @dev I8: and no room in the window.
    function test_givesNoRoomBackInTheWindow() public {
        terms.intent = "windowed";
        (terms.window, terms.windowCap) = (1 hours, 10);
        id = _open(terms);
        _spend(terms, _payment(terms, 10, 0));
        _refund(10);
        _assertRefused(terms, _payment(terms, 1, 1), Reason.WindowExceeded);
    }

    // ---------------------------------------------------------------- to the operator

    function test_goesToTheOperator_ifTheTermsSaySo() public {
        terms.refundsRestoreBudget = false;
        id = _open(terms);
        _spend(terms, _payment(terms, 5, 0));
        _assertGoesToTheOperator();
    }

    function test_goesToTheOperator_fromExpiryOn() public {
        _spend(terms, _payment(terms, 5, 0));
        uint256 snapshot = vm.snapshotState();
        vm.warp(terms.expiry - 1);
        _refund(5);
        assertEq(escrow.mandateOf(id).remaining, CAP);
        vm.revertToState(snapshot);
        uint40[4] memory times = [terms.expiry, terms.expiry + 1, terms.captureEnd, terms.captureEnd + 1];
        for (uint256 i = 0; i < times.length; ++i) {
            vm.warp(times[i]);
            _assertGoesToTheOperator();
            vm.revertToState(snapshot);
        }
    }

    /// @dev I5: after the end nothing is stuck, and nothing is brought back to life.
    function test_goesToTheOperator_afterTheEnd() public {
        _spend(terms, _payment(terms, 5, 0));
        _hold(terms, _holdOf(terms, 7, 1));
        vm.prank(operator);
        escrow.revoke(terms);
        _assertGoesToTheOperator();
        _assertRefused(terms, _payment(terms, 1, 2), Reason.Ended);
        vm.warp(terms.captureEnd);
        escrow.sweep(terms);
        _assertGoesToTheOperator();
    }

    /// @dev Nothing was paid, so there is nothing to restore, and the token is asked for nothing on the escrow's behalf.
    function test_goesToTheOperator_beforeAnythingWasPaid() public {
        vm.expectCall(address(usdc), abi.encodeCall(usdc.transferFrom, (stranger, address(escrow), 0)), 0);
        _assertGoesToTheOperator();
        _hold(terms, _holdOf(terms, CAP, 0));
        _assertGoesToTheOperator();
        _release(terms, 0);
        _assertGoesToTheOperator();

        terms.intent = "early";
        terms.start = NOW + 1;
        id = _open(terms);
        _assertGoesToTheOperator();
    }

    function _assertGoesToTheOperator() private {
        Mandate memory before = escrow.mandateOf(id);
        (uint256 ofOperator, uint256 ofEscrow) = (usdc.balanceOf(operator), usdc.balanceOf(address(escrow)));
        _fund(stranger, 5);
        _expectRefunded(stranger, 5, 0);
        vm.prank(stranger);
        escrow.refund(terms, 5, REF);
        assertEq(escrow.mandateOf(id), before);
        assertEq(usdc.balanceOf(operator), ofOperator + 5);
        assertEq(usdc.balanceOf(address(escrow)), ofEscrow);
    }

    // ---------------------------------------------------------------- refusals

    function test_reverts_whenAmountIsZero() public {
        vm.expectRevert(IMandateEscrow.AmountIsZero.selector);
        escrow.refund(terms, 0, REF);
    }

    function test_reverts_whenTheMandateIsUnknown() public {
        terms.intent = "unknown";
        _fund(payee, 5);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms)));
        vm.prank(payee);
        escrow.refund(terms, 5, REF);
    }

    /// @dev Who calls pays: nobody's allowance is spent by another, the operator's neither.
    function test_reverts_whenTheCallerAllowsNothing() public {
        _spend(terms, _payment(terms, 50, 0));
        _fund(operator, 50);
        vm.prank(payee);
        usdc.approve(address(escrow), 50);
        vm.expectRevert("ERC20: transfer amount exceeds allowance");
        vm.prank(stranger);
        escrow.refund(terms, 5, REF);
        assertEq(usdc.balanceOf(payee), 50);
        assertEq(usdc.balanceOf(operator), 50);
    }

    function test_reverts_whenTheCallerHasTooLittle() public {
        _spend(terms, _payment(terms, 9, 0));
        vm.startPrank(payee);
        usdc.approve(address(escrow), 20);
        vm.expectRevert("ERC20: transfer amount exceeds balance");
        escrow.refund(terms, 10, REF);
        escrow.refund(terms, 9, REF);
        assertEq(escrow.mandateOf(id).remaining, CAP);
    }

    // ---------------------------------------------------------------- token

    /// @dev All or nothing: what would go to an operator whom the token refuses stays with its payer, and so does the rest.
    function test_reverts_whenTheTokenRefusesTheOperator() public {
        _spend(terms, _payment(terms, 9, 0));
        usdc.blacklist(operator);
        _fund(payee, 10);
        vm.startPrank(payee);
        vm.expectRevert("Blacklistable: account is blacklisted");
        escrow.refund(terms, 10, REF);
        assertEq(escrow.mandateOf(id).remaining, CAP - 9);
        escrow.refund(terms, 9, REF);
        assertEq(escrow.mandateOf(id).remaining, CAP);
    }

    function test_reverts_whenTheTokenIsPausedOrRefusesPayerOrEscrow() public {
        _spend(terms, _payment(terms, 9, 0));
        _fund(payee, 9);
        usdc.pause();
        _assertRevertsWith("Pausable: paused");
        usdc.unpause();
        usdc.blacklist(payee);
        _assertRevertsWith("Blacklistable: account is blacklisted");
        usdc.unBlacklist(payee);
        usdc.blacklist(address(escrow));
        _assertRevertsWith("Blacklistable: account is blacklisted");
    }

    function _assertRevertsWith(bytes memory refusal) private {
        vm.expectRevert(refusal);
        vm.prank(payee);
        escrow.refund(terms, 9, REF);
        assertEq(escrow.mandateOf(id).remaining, CAP - 9);
    }

    /// @dev I1: no budget without the money behind it, though others' is there.
    function test_reverts_whenTheBalanceDoesNotGrowByWhatIsRestored() public {
        _spend(terms, _payment(terms, 9, 0));
        _fund(payee, 20);
        address[3] memory tokens =
            [address(new TokenTakingAFee()), address(new TokenDeliveringMore()), address(new TokenFeigningPulls())];
        uint256 before = CAP - 9;
        uint256[3] memory balances = [before + 8, before + 10, before];
        for (uint256 i = 0; i < tokens.length; ++i) {
            _upgradeToken(tokens[i]);
            _assertRevertsWith(
                abi.encodeWithSelector(IMandateEscrow.TransferDeltaMismatch.selector, 9, before, balances[i])
            );
        }
        _upgradeToken(address(new TokenReturningFalseToPulls()));
        _assertRevertsWith(abi.encodeWithSignature("SafeERC20FailedOperation(address)", usdc));
        vm.prank(operator);
        escrow.revoke(terms);
        _fund(payee, 9);
        vm.expectRevert(abi.encodeWithSignature("SafeERC20FailedOperation(address)", usdc));
        vm.prank(payee);
        escrow.refund(terms, 9, REF);
    }

    // ---------------------------------------------------------------- extremes

    /// @dev I11.
    function test_succeeds_atTypeMaxima() public {
        terms.cap = type(uint64).max;
        id = _open(terms);
        _spend(terms, _payment(terms, type(uint64).max, 0));
        _refund(type(uint64).max);
        assertEq(escrow.mandateOf(id).remaining, type(uint64).max);
        _refund(type(uint64).max);
        assertEq(escrow.mandateOf(id).remaining, type(uint64).max);
        assertEq(usdc.balanceOf(operator), type(uint64).max);
        _hold(terms, _holdOf(terms, type(uint64).max - 1, 1));
        _refund(1);
        assertEq(escrow.mandateOf(id).remaining, 1);
    }

    /// @dev One who plays all parts gets nothing out of it.
    function test_addsUp_whenOneIsAll() public {
        terms.intent = "alone";
        (terms.agent, terms.guardian) = (operator, address(0));
        agentKey = operatorKey;
        id = _open(terms);
        escrow.spend(terms, _paymentTo(terms, operator, 9, 0));
        vm.startPrank(operator);
        usdc.approve(address(escrow), 9);
        escrow.refund(terms, 4, REF);
        escrow.refund(terms, 5, REF);
        assertEq(escrow.mandateOf(id).remaining, CAP);
        usdc.approve(address(escrow), 9);
        vm.expectRevert("ERC20: transfer amount exceeds balance");
        escrow.refund(terms, 9, REF);
        escrow.revoke(terms);
        assertEq(usdc.balanceOf(operator), CAP);
    }
}
