// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {PurseHandler} from "./PurseHandler.sol";

/// @notice P1, P2 and P4 of purses, and I1 to I12 of the escrow that pays them, after any sequence of calls.
contract PurseInvariants is Test {
    PurseHandler private handler;

    bytes4[] private actions = [
        PurseHandler.open.selector,
        PurseHandler.topUp.selector,
        PurseHandler.donate.selector,
        PurseHandler.pay.selector,
        PurseHandler.tryPay.selector,
        PurseHandler.giveBack.selector,
        PurseHandler.tryGiveBack.selector,
        PurseHandler.sweep.selector,
        PurseHandler.sweepTo.selector,
        PurseHandler.trySweep.selector,
        PurseHandler.revoke.selector,
        PurseHandler.setSubmitter.selector,
        PurseHandler.passTime.selector
    ];
    bytes32[] private names = [
        bytes32("open"),
        "topUp",
        "pay",
        "tryPay",
        "giveBack",
        "tryGiveBack",
        "sweep",
        "sweepTo",
        "trySweep",
        "revoke",
        "setSubmitter"
    ];

    function setUp() public {
        handler = new PurseHandler();
        handler.setUp();
        targetSelector(FuzzSelector(address(handler), actions));
        targetContract(address(handler));
    }

    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_nothingElseLeavesAPurse() public {
        assertEq(handler.breach(), "");
    }

    function afterInvariant() public {
        assertEq(handler.check(), "");
        for (uint256 i = 0; i < names.length; ++i) {
            assertGt(handler.successes(names[i]), 0, string(abi.encodePacked("never succeeded: ", names[i])));
        }
    }
}
