// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandatePurse} from "../../../src/interfaces/IMandatePurse.sol";
import {Terms} from "../../../src/interfaces/Types.sol";
import {PurseTest} from "../../base/PurseTest.sol";
import {TokenReturningFalse, TokenReverting} from "../../mocks/HostileTokens.sol";

contract SweepPurseTest is PurseTest {
    function _sweep() private returns (uint256) {
        vm.prank(stranger);
        return purse.sweep(terms.payees);
    }

    function _revoke() private {
        vm.prank(operator);
        escrow.revoke(terms);
    }

    function _expectNotEnded() private {
        vm.expectRevert(abi.encodeWithSelector(IMandatePurse.NotEnded.selector, _idOf(terms), terms.expiry));
    }

    // ---------------------------------------------------------------- after the end

    /// @dev P4.
    function test_succeeds_fromAnyone_afterRevoke(address caller) public {
        _revoke();
        uint256 before = usdc.balanceOf(operator);
        vm.prank(caller);
        assertEq(purse.sweep(terms.payees), FLOAT);
        assertEq(usdc.balanceOf(operator), before + FLOAT);
        assertEq(usdc.balanceOf(address(purse)), 0);
    }

    function test_succeeds_afterARoll() public {
        _roll();
        assertEq(_sweep(), FLOAT);
        assertEq(usdc.balanceOf(operator), FLOAT);
    }

    /// @dev P4: the root does not matter, so it cannot be lost.
    function test_succeeds_fromExpiryOn(bytes32 root, uint40 after_) public {
        after_ = uint40(bound(after_, 0, 100 * 365 days));
        vm.warp(terms.expiry + after_);
        vm.prank(stranger);
        assertEq(purse.sweep(root), FLOAT);
        assertEq(usdc.balanceOf(operator), FLOAT);
    }

    /// @dev Also once the escrow's own end has come and gone.
    function test_succeeds_afterTheEscrowsSweep() public {
        vm.warp(terms.captureEnd);
        escrow.sweep(terms);
        assertEq(_sweep(), FLOAT);
        assertEq(usdc.balanceOf(operator), CAP + FLOAT - PER_PAYMENT);
    }

    /// @dev What comes in later, such as a seller's refund by plain transfer, goes the same way.
    function test_succeeds_again_whenMoreComesIn() public {
        _settleCharge(_charge(5));
        _revoke();
        _sweep();
        vm.prank(payee);
        usdc.transfer(address(purse), 5);
        assertEq(_sweep(), 5);
        assertEq(usdc.balanceOf(operator), CAP - PER_PAYMENT + FLOAT);
    }

    /// @dev Paid before it was made, and made after the end.
    function test_succeeds_forAPurseThatIsMadeAfterTheEnd() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "late";
        address purse_ = factory.purseOf(terms_);
        terms_.payees = _pair(_leaf(purse_), _leaf(payee));
        terms = terms_;
        purse = IMandatePurse(purse_);
        id = _open(terms_);
        _topUp(9, 0);
        _revoke();
        factory.create(terms_);
        uint256 before = usdc.balanceOf(operator);
        assertEq(_sweep(), 9);
        assertEq(usdc.balanceOf(operator), before + 9);
    }

    /// @dev Withdrawn before anybody opened them: what was sent to their purse is the operator's.
    function test_succeeds_forTermsThatWereWithdrawn() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "withdrawn";
        purse = IMandatePurse(factory.create(terms_));
        terms = terms_;
        usdc.mint(address(purse), 9);
        _expectNotEnded();
        _sweep();
        _revoke();
        assertEq(_sweep(), 9);
        assertEq(usdc.balanceOf(operator), 9);
    }

    // ---------------------------------------------------------------- refusals

    function test_reverts_beforeExpiry() public {
        vm.warp(terms.expiry - 1);
        _expectNotEnded();
        _sweep();
        vm.warp(terms.expiry);
        _sweep();
    }

    /// @dev With another root the terms are those of no mandate, also after the end of the right one.
    function test_reverts_beforeExpiry_withAnotherRoot(bytes32 root) public {
        vm.assume(root != terms.payees);
        _revoke();
        terms.payees = root;
        _expectNotEnded();
        _sweep();
    }

    function test_reverts_forTermsThatNobodyOpened_beforeTheirExpiry() public {
        terms.intent = "unopened";
        purse = IMandatePurse(factory.create(terms));
        usdc.mint(address(purse), 9);
        vm.warp(terms.expiry - 1);
        _expectNotEnded();
        _sweep();
        vm.warp(terms.expiry);
        assertEq(_sweep(), 9);
        assertEq(usdc.balanceOf(operator), 9);
    }

    function test_reverts_whenThePurseIsEmpty() public {
        _revoke();
        _sweep();
        vm.expectRevert(IMandatePurse.NothingToSweep.selector);
        _sweep();
    }

    /// @dev Two mandates that differ in their payees alone share a purse. Only their operator can make such two, and it alone
    /// gets what is in the purse when one of them is over.
    function test_succeeds_whenATwinIsOver() public {
        Terms memory twin = terms;
        twin.payees = keccak256("other payees");
        assertEq(factory.purseOf(twin), address(purse));
        vm.expectRevert();
        vm.prank(stranger);
        escrow.revoke(twin);
        vm.prank(operator);
        escrow.revoke(twin);
        vm.prank(stranger);
        assertEq(purse.sweep(twin.payees), FLOAT);
        assertEq(usdc.balanceOf(operator), FLOAT);
    }

    // ---------------------------------------------------------------- token

    function test_reverts_whenTheTokenRefuses() public {
        _revoke();
        usdc.blacklist(operator);
        vm.expectRevert("Blacklistable: account is blacklisted");
        _sweep();
        usdc.unBlacklist(operator);
        usdc.blacklist(address(purse));
        vm.expectRevert("Blacklistable: account is blacklisted");
        _sweep();
        usdc.unBlacklist(address(purse));
        usdc.pause();
        vm.expectRevert("Pausable: paused");
        _sweep();
        usdc.unpause();

        address[2] memory tokens = [address(new TokenReturningFalse()), address(new TokenReverting())];
        for (uint256 i = 0; i < tokens.length; ++i) {
            _upgradeToken(tokens[i]);
            vm.expectRevert();
            _sweep();
            assertEq(usdc.balanceOf(address(purse)), FLOAT);
        }
    }
}
