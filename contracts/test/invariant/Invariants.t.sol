// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {ValidCallsHandler} from "./ValidCallsHandler.sol";
import {AnyCallsHandler} from "./AnyCallsHandler.sol";

/// @notice I1 to I12 after any sequence of calls that must succeed. A handler that reverts is a failure, too.
contract OrderlyInvariants is Test {
    ValidCallsHandler private handler;

    bytes4[] private actions = [
        ValidCallsHandler.open.selector,
        ValidCallsHandler.openWithPermit.selector,
        ValidCallsHandler.openWithAuthorization.selector,
        ValidCallsHandler.spend.selector,
        ValidCallsHandler.settle.selector,
        ValidCallsHandler.settleTo.selector,
        ValidCallsHandler.hold.selector,
        ValidCallsHandler.capture.selector,
        ValidCallsHandler.release.selector,
        ValidCallsHandler.refund.selector,
        ValidCallsHandler.revoke.selector,
        ValidCallsHandler.revokeWithSignature.selector,
        ValidCallsHandler.withdraw.selector,
        ValidCallsHandler.sweep.selector,
        ValidCallsHandler.sweepTo.selector,
        ValidCallsHandler.roll.selector,
        ValidCallsHandler.sweepAtTheEnd.selector,
        ValidCallsHandler.setSubmitter.selector,
        ValidCallsHandler.passTime.selector,
        ValidCallsHandler.donate.selector
    ];
    bytes32[] private names = [
        bytes32("open"),
        "openWithPermit",
        "openWithAuthorization",
        "spend",
        "settle",
        "settleTo",
        "hold",
        "capture",
        "release",
        "refund",
        "revoke",
        "revokeWithSignature",
        "withdraw",
        "sweep",
        "sweepTo",
        "roll",
        "sweepAtTheEnd",
        "setSubmitter"
    ];

    function setUp() public {
        handler = new ValidCallsHandler();
        handler.setUp();
        targetSelector(FuzzSelector(address(handler), actions));
        targetContract(address(handler));
    }

    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_allHold() public {
        assertEq(handler.breach(), "");
    }

    function afterInvariant() public {
        assertEq(handler.check(), "");
        for (uint256 i = 0; i < names.length; ++i) {
            assertGt(handler.successes(names[i]), 0, string(abi.encodePacked("never succeeded: ", names[i])));
        }
    }
}

/// @notice I1 to I12 after any sequence of any calls. What the escrow refuses is caught and looked at; a handler that reverts is
/// a failure here, too, since a breach that it had found would be forgotten.
contract UnrulyInvariants is Test {
    AnyCallsHandler private handler;

    bytes4[] private actions = [
        AnyCallsHandler.open.selector,
        AnyCallsHandler.openAgain.selector,
        AnyCallsHandler.openWithPermit.selector,
        AnyCallsHandler.openWithAuthorization.selector,
        AnyCallsHandler.spend.selector,
        AnyCallsHandler.settle.selector,
        AnyCallsHandler.settleTo.selector,
        AnyCallsHandler.hold.selector,
        AnyCallsHandler.capture.selector,
        AnyCallsHandler.release.selector,
        AnyCallsHandler.refund.selector,
        AnyCallsHandler.revoke.selector,
        AnyCallsHandler.revokeWithSignature.selector,
        AnyCallsHandler.withdraw.selector,
        AnyCallsHandler.sweep.selector,
        AnyCallsHandler.sweepTo.selector,
        AnyCallsHandler.roll.selector,
        AnyCallsHandler.setSubmitter.selector,
        AnyCallsHandler.passTime.selector,
        AnyCallsHandler.donate.selector,
        AnyCallsHandler.refuse.selector
    ];
    bytes32[] private names = [
        bytes32("open"),
        "openWithPermit",
        "openWithAuthorization",
        "spend",
        "settle",
        "settleTo",
        "hold",
        "capture",
        "release",
        "refund",
        "revoke",
        "revokeWithSignature",
        "withdraw",
        "sweep",
        "sweepTo",
        "roll",
        "setSubmitter"
    ];

    function setUp() public {
        handler = new AnyCallsHandler();
        handler.setUp();
        targetSelector(FuzzSelector(address(handler), actions));
        targetContract(address(handler));
    }

    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_allHold() public {
        assertEq(handler.breach(), "");
    }

    function afterInvariant() public {
        assertEq(handler.check(), "");
        assertEq(handler.successes("openAgain"), 0, "I5: opened again");
        for (uint256 i = 0; i < names.length; ++i) {
            assertGt(handler.successes(names[i]), 0, string(abi.encodePacked("never succeeded: ", names[i])));
        }
    }
}
