// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {Payment, Reason, Terms} from "../../../src/interfaces/Types.sol";
import {PurseTest} from "../../base/PurseTest.sol";

/// @notice P1, with the token's part: what a seller gets by the token's own call, and when.
contract TransferWithAuthorizationTest is PurseTest {
    function test_paysOnce() public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        _settleCharge(charge, signature);
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        _settleCharge(charge, signature);
        assertEq(usdc.balanceOf(payee), 5);
    }

    /// @dev The purse answers as before: times are the token's.
    function test_reverts_whenTheAuthorizationIsEarlyOrLate() public {
        Charge memory charge = _charge(5);
        charge.validAfter = NOW;
        bytes memory signature = _signatureOf(charge);
        _assertAnswers(YES, charge, signature);
        vm.expectRevert("FiatTokenV2: authorization is not yet valid");
        _settleCharge(charge, signature);
        vm.warp(charge.validBefore);
        _assertAnswers(YES, charge, signature);
        vm.expectRevert("FiatTokenV2: authorization is expired");
        _settleCharge(charge, signature);
        vm.warp(charge.validBefore - 1);
        _settleCharge(charge, signature);
    }

    /// @dev Whoever sends it first, the seller gets it.
    function test_paysTheSeller_whenAStrangerIsFirst(address first) public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        vm.prank(first);
        usdc.transferWithAuthorization(
            address(purse), payee, 5, charge.validAfter, charge.validBefore, charge.nonce, signature
        );
        assertEq(usdc.balanceOf(payee), 5);
    }

    /// @dev The form with v, r and s has no room for what the purse takes.
    function test_reverts_inTheFormForKeys() public {
        Charge memory charge = _charge(5);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(agentKey, _digestOf(charge));
        vm.expectRevert("FiatTokenV2: invalid signature");
        usdc.transferWithAuthorization(
            address(purse), payee, 5, charge.validAfter, charge.validBefore, charge.nonce, v, r, s
        );
    }

    /// @dev The purse has no books: of two that promise the same money the first is paid, and the second not at all.
    function test_paysTheFirst_ofTwoAboveTheBalance() public {
        Charge memory a = _charge(PER_PAYMENT);
        Charge memory b = _charge(PER_PAYMENT);
        Charge memory c = _charge(1);
        (b.nonce, c.nonce) = ("b", "c");
        bytes memory signature = _signatureOf(c);
        _settleCharge(a);
        _settleCharge(b);
        vm.expectRevert("ERC20: transfer amount exceeds balance");
        _settleCharge(c, signature);
    }

    /// @dev Both keys stolen: the cap, to listed payees, and nothing else. P2.
    function test_paysAtMostTheCap_withBothKeys() public {
        Terms memory terms_ = _purseTerms();
        terms_.cap = 30e6;
        _start(terms_);
        deal(address(usdc), address(purse), 0);
        usdc.mint(address(purse), PER_PAYMENT);
        _topUp(PER_PAYMENT, 1);
        _topUp(PER_PAYMENT, 2);
        Payment memory payment = _paymentTo(terms, address(purse), 1, 3);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.InsufficientBudget));
        vm.prank(submitter);
        escrow.spend(terms, payment, _proofOf(payee), "");

        Charge memory toThief = _charge(5);
        toThief.to = stranger;
        _assertNotPaid(toThief, _signatureOf(toThief));
        for (uint256 i = 0; i < 3; ++i) {
            Charge memory charge = _charge(PER_PAYMENT);
            charge.nonce = bytes32(i);
            _settleCharge(charge);
        }
        assertEq(usdc.balanceOf(payee), terms_.cap);
        assertEq(usdc.balanceOf(address(purse)), 0);
    }

    /// @dev A blacklisted purse or seller freezes what is in the purse, and nothing of the mandate's.
    function test_freezesTheFloatAlone_whenTheTokenRefuses() public {
        Charge memory charge = _charge(5);
        bytes memory signature = _signatureOf(charge);
        address[2] memory refused = [address(purse), payee];
        for (uint256 i = 0; i < 2; ++i) {
            usdc.blacklist(refused[i]);
            vm.expectRevert("Blacklistable: account is blacklisted");
            _settleCharge(charge, signature);
            usdc.unBlacklist(refused[i]);
        }
        usdc.pause();
        vm.expectRevert("Pausable: paused");
        _settleCharge(charge, signature);
        usdc.unpause();
        usdc.blacklist(address(purse));
        Payment memory payment = _paymentTo(terms, payee, 3, 7);
        vm.prank(submitter);
        escrow.spend(terms, payment, _proofOf(address(purse)), "");
        assertEq(usdc.balanceOf(payee), 3);
    }

    /// @dev A seller's refund by plain transfer comes back to the purse that paid, and can be spent again.
    function test_canSpendWhatASellerReturns() public {
        _settleCharge(_charge(PER_PAYMENT));
        vm.prank(payee);
        usdc.transfer(address(purse), PER_PAYMENT);
        assertEq(usdc.balanceOf(address(purse)), FLOAT);
        Charge memory charge = _charge(PER_PAYMENT);
        charge.nonce = "again";
        _settleCharge(charge);
    }

    /// @dev A listed mandate pays its purse only if the list names it.
    function test_needsThePurseInTheList() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "without the purse";
        terms_.payees = _leaf(payee);
        id = _open(terms_);
        Payment memory payment = _paymentTo(terms_, factory.purseOf(terms_), 5, 0);
        vm.expectRevert(abi.encodeWithSelector(IMandateEscrow.Refused.selector, Reason.PayeeNotAllowed));
        vm.prank(submitter);
        escrow.spend(terms_, payment, new bytes32[](0), "");
    }

    /// @dev The domain is the token's of today: a rename or another chain id stops no purse.
    function test_succeeds_afterTheChainIdChanged() public {
        vm.chainId(block.chainid + 1);
        _settleCharge(_charge(5));
        assertEq(usdc.balanceOf(payee), 5);
    }
}
