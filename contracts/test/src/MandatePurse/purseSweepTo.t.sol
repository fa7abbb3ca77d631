// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandatePurse} from "../../../src/interfaces/IMandatePurse.sol";
import {PurseTest} from "../../base/PurseTest.sol";

contract SweepPurseToTest is PurseTest {
    address private recipient = makeAddr("recipient");

    function setUp() public override {
        super.setUp();
        vm.warp(terms.expiry);
    }

    /// @dev What it is for.
    function test_succeeds_forAnOperatorWhomTheTokenRefuses() public {
        usdc.blacklist(operator);
        vm.expectRevert("Blacklistable: account is blacklisted");
        purse.sweep(terms.payees);
        vm.prank(operator);
        assertEq(purse.sweepTo(terms.payees, recipient), FLOAT);
        assertEq(usdc.balanceOf(recipient), FLOAT);
        assertEq(usdc.balanceOf(address(purse)), 0);
    }

    function test_succeeds_toAnyRecipient(address to) public {
        vm.assume(to != address(0) && to != address(purse) && to != address(escrow) && to != address(usdc));
        vm.prank(operator);
        purse.sweepTo(terms.payees, to);
        assertEq(usdc.balanceOf(to), FLOAT);
    }

    function test_reverts_fromAnyoneElse(address caller) public {
        vm.assume(caller != operator);
        address[5] memory callers = [caller, agent, guardian, submitter, recipient];
        for (uint256 i = 0; i < callers.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMandatePurse.NotOperator.selector, callers[i], operator));
            vm.prank(callers[i]);
            purse.sweepTo(terms.payees, recipient);
        }
    }

    function test_reverts_whenTheRecipientIsZeroOrThePurseOrTheEscrowOrTheToken() public {
        address[4] memory bad = [address(0), address(purse), address(escrow), address(usdc)];
        vm.startPrank(operator);
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IMandatePurse.BadRecipient.selector, bad[i]));
            purse.sweepTo(terms.payees, bad[i]);
        }
    }

    function test_reverts_beforeTheEnd() public {
        vm.warp(terms.expiry - 1);
        vm.startPrank(operator);
        vm.expectRevert(abi.encodeWithSelector(IMandatePurse.NotEnded.selector, id, terms.expiry));
        purse.sweepTo(terms.payees, recipient);
        escrow.revoke(terms);
        assertEq(purse.sweepTo(terms.payees, recipient), FLOAT);
    }

    function test_reverts_whenThePurseIsEmpty() public {
        purse.sweep(terms.payees);
        vm.expectRevert(IMandatePurse.NothingToSweep.selector);
        vm.prank(operator);
        purse.sweepTo(terms.payees, recipient);
    }
}
