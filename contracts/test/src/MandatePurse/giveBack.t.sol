// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {IMandatePurse} from "../../../src/interfaces/IMandatePurse.sol";
import {Mandate, Payment, Reason, Status, Terms} from "../../../src/interfaces/Types.sol";
import {PurseTest} from "../../base/PurseTest.sol";
import {TokenFeigningPulls, TokenReenteringQuietly, TokenTakingAFee} from "../../mocks/HostileTokens.sol";

contract GiveBackTest is PurseTest {
    bytes32 private constant REF = keccak256("float of last night");

    function _giveBack(uint64 amount) private {
        vm.prank(submitter);
        purse.giveBack(terms.payees, amount, REF);
    }

    function _assertReverts(bytes memory refusal, uint64 amount) private {
        vm.expectRevert(refusal);
        _giveBack(amount);
        assertEq(usdc.allowance(address(purse), address(escrow)), 0);
    }

    // ---------------------------------------------------------------- who

    function test_succeeds_fromASubmitter(uint64 amount) public {
        amount = uint64(bound(amount, 1, PER_PAYMENT));
        _giveBack(amount);
        _assertBack(amount);
    }

    function test_succeeds_fromTheOperator() public {
        vm.prank(operator);
        purse.giveBack(terms.payees, 7, REF);
        _assertBack(7);
    }

    /// @dev What came back is budget again, and nothing is left behind that could be pulled.
    function _assertBack(uint64 amount) private view {
        assertEq(escrow.mandateOf(id), Mandate(CAP - PER_PAYMENT + amount, 0, 1, 0, Status.Open));
        assertEq(usdc.balanceOf(address(purse)), FLOAT - amount);
        assertEq(usdc.balanceOf(address(escrow)), CAP - PER_PAYMENT + amount);
        assertEq(usdc.balanceOf(operator), 0);
        assertEq(usdc.allowance(address(purse), address(escrow)), 0);
    }

    function test_emitsWhatTheEscrowSays() public {
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.Refunded(id, address(purse), 7, 7, REF);
        _giveBack(7);
    }

    /// @dev The agent has no need of it, and a thief of its key no use.
    function test_reverts_fromAnyoneElse(address caller) public {
        vm.assume(caller != operator && caller != submitter);
        address[5] memory callers = [caller, agent, guardian, payee, address(escrow)];
        for (uint256 i = 0; i < callers.length; ++i) {
            bytes4 selector = IMandatePurse.NotOperatorOrSubmitter.selector;
            vm.expectRevert(abi.encodeWithSelector(selector, callers[i], operator, guardian));
            vm.prank(callers[i]);
            purse.giveBack(terms.payees, 7, REF);
        }
    }

    function test_reverts_fromASubmitterOfAnotherGuardianOrARemovedOne() public {
        vm.prank(payee);
        escrow.setSubmitter(stranger, true);
        bytes4 selector = IMandatePurse.NotOperatorOrSubmitter.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, stranger, operator, guardian));
        vm.prank(stranger);
        purse.giveBack(terms.payees, 7, REF);

        vm.prank(guardian);
        escrow.setSubmitter(submitter, false);
        vm.expectRevert(abi.encodeWithSelector(selector, submitter, operator, guardian));
        vm.prank(submitter);
        purse.giveBack(terms.payees, 7, REF);
    }

    /// @dev Without a guardian the operator alone, whatever zero is said to have allowed.
    function test_reverts_fromAnyoneButTheOperator_withoutAGuardian() public {
        vm.prank(address(0));
        escrow.setSubmitter(stranger, true);
        Terms memory terms_ = _purseTerms();
        terms_.guardian = address(0);
        _start(terms_);
        vm.expectRevert(
            abi.encodeWithSelector(IMandatePurse.NotOperatorOrSubmitter.selector, stranger, operator, address(0))
        );
        vm.prank(stranger);
        purse.giveBack(terms.payees, 7, REF);
        vm.prank(operator);
        purse.giveBack(terms.payees, 7, REF);
        assertEq(usdc.balanceOf(address(purse)), FLOAT - 7);
    }

    // ---------------------------------------------------------------- where to

    /// @dev Donations, and whatever sellers returned: up to the cap it is budget, the rest is the operator's.
    function test_restoresUpToTheCap() public {
        _giveBack(FLOAT);
        assertEq(escrow.mandateOf(id).remaining, CAP);
        assertEq(usdc.balanceOf(operator), FLOAT - PER_PAYMENT);
        assertEq(usdc.balanceOf(address(purse)), 0);
    }

    function test_goesToTheOperator_ifTheTermsSaySo() public {
        Terms memory terms_ = _purseTerms();
        terms_.refundsRestoreBudget = false;
        _start(terms_);
        _assertGoesToTheOperator();
    }

    function test_goesToTheOperator_fromExpiryOnAndAfterTheEnd() public {
        uint256 snapshot = vm.snapshotState();
        vm.warp(terms.expiry);
        _assertGoesToTheOperator();
        vm.revertToState(snapshot);
        vm.prank(operator);
        escrow.revoke(terms);
        _assertGoesToTheOperator();
        vm.revertToState(snapshot);
        _roll();
        _assertGoesToTheOperator();
    }

    /// @dev Withdrawn terms never held anything to restore.
    function test_goesToTheOperator_whenTheTermsWereWithdrawn() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "withdrawn";
        purse = IMandatePurse(factory.create(terms_));
        terms = terms_;
        id = _idOf(terms_);
        usdc.mint(address(purse), FLOAT);
        vm.prank(operator);
        escrow.revoke(terms_);
        _assertGoesToTheOperator();
    }

    function _assertGoesToTheOperator() private {
        Mandate memory before = escrow.mandateOf(id);
        uint256 ofOperator = usdc.balanceOf(operator);
        _giveBack(7);
        assertEq(escrow.mandateOf(id), before);
        assertEq(usdc.balanceOf(operator), ofOperator + 7);
        assertEq(usdc.balanceOf(address(purse)), FLOAT - 7);
        assertEq(usdc.allowance(address(purse), address(escrow)), 0);
    }

    /// @dev I8: what comes back gives no room in the window.
    function test_givesNoRoomBackInTheWindow() public {
        Terms memory terms_ = _purseTerms();
        (terms_.window, terms_.windowCap) = (1 hours, PER_PAYMENT);
        _start(terms_);
        _giveBack(PER_PAYMENT);
        Payment memory payment = _paymentTo(terms, address(purse), 1, 1);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.WindowExceeded));
        vm.prank(submitter);
        escrow.spend(terms, payment, _proofOf(payee), "");
    }

    // ---------------------------------------------------------------- refusals

    function test_reverts_withAnotherRoot(bytes32 root) public {
        vm.assume(root != terms.payees);
        Terms memory other = terms;
        other.payees = root;
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(other)));
        vm.prank(submitter);
        purse.giveBack(root, 7, REF);
        assertEq(usdc.balanceOf(address(purse)), FLOAT);
        assertEq(usdc.allowance(address(purse), address(escrow)), 0);
    }

    /// @dev There is no mandate yet that it could go back to.
    function test_reverts_beforeTheMandateIsOpen() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "later";
        purse = IMandatePurse(factory.create(terms_));
        terms = terms_;
        usdc.mint(address(purse), FLOAT);
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.UnknownMandate.selector, _idOf(terms_)), 7);
        assertEq(usdc.balanceOf(address(purse)), FLOAT);
    }

    function test_reverts_whenAmountIsZero() public {
        _assertReverts(abi.encodeWithSelector(IMandateEscrow.AmountIsZero.selector), 0);
    }

    function test_reverts_aboveTheBalance() public {
        _assertReverts("ERC20: transfer amount exceeds balance", FLOAT + 1);
        _assertReverts("ERC20: transfer amount exceeds balance", type(uint64).max);
        _giveBack(FLOAT);
    }

    /// @dev All or nothing: to the budget goes what need not pass by the operator.
    function test_reverts_whenTheTokenRefusesTheOperator() public {
        usdc.blacklist(operator);
        _assertReverts("Blacklistable: account is blacklisted", PER_PAYMENT + 1);
        _giveBack(PER_PAYMENT);
        assertEq(escrow.mandateOf(id).remaining, CAP);
    }

    function test_reverts_whenTheTokenIsHostile() public {
        uint256 before = CAP - PER_PAYMENT;
        _upgradeToken(address(new TokenTakingAFee()));
        bytes4 selector = IMandateEscrow.TransferDeltaMismatch.selector;
        _assertReverts(abi.encodeWithSelector(selector, 7, before, before + 6), 7);
        _upgradeToken(address(new TokenFeigningPulls()));
        _assertReverts(abi.encodeWithSelector(selector, 7, before, before), 7);
    }

    /// @dev A token that calls back while it moves finds nothing to take twice.
    function test_givesBackOnce_whenTheTokenReenters() public {
        _upgradeToken(address(new TokenReenteringQuietly()));
        TokenReenteringQuietly token = TokenReenteringQuietly(address(usdc));
        token.reenterWith(abi.encodeCall(IMandateEscrow.refund, (terms, 7, REF)));
        _giveBack(7);
        assertFalse(token.reentered());
        _assertBack(7);
    }

    // ---------------------------------------------------------------- races

    /// @dev Whoever settles with what was signed before finds less, and is paid nothing rather than in part.
    function test_leavesLessForWhatIsSigned() public {
        Charge memory charge = _charge(PER_PAYMENT);
        _giveBack(FLOAT - PER_PAYMENT + 1);
        bytes memory signature = _signatureOf(charge);
        _assertAnswers(YES, charge, signature);
        vm.expectRevert("ERC20: transfer amount exceeds balance");
        _settleCharge(charge, signature);
        assertEq(usdc.balanceOf(payee), 0);
        usdc.mint(address(purse), 1);
        _settleCharge(charge, signature);
        assertEq(usdc.balanceOf(payee), PER_PAYMENT);
    }
}
