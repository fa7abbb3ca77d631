// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Test} from "forge-std/Test.sol";
import {Orderly} from "./Orderly.sol";
import {Unruly} from "./Unruly.sol";

/// @notice I1 to I12 after any sequence of calls that must succeed. A handler that reverts is a failure, too.
contract OrderlyInvariants is Test {
    Orderly private handler;

    bytes4[] private actions = [
        Orderly.open.selector,
        Orderly.openWithPermit.selector,
        Orderly.openWithAuthorization.selector,
        Orderly.spend.selector,
        Orderly.settle.selector,
        Orderly.hold.selector,
        Orderly.capture.selector,
        Orderly.release.selector,
        Orderly.refund.selector,
        Orderly.revoke.selector,
        Orderly.revokeWithSignature.selector,
        Orderly.sweep.selector,
        Orderly.sweepTo.selector,
        Orderly.sweepAtTheEnd.selector,
        Orderly.setSubmitter.selector,
        Orderly.passTime.selector,
        Orderly.donate.selector
    ];
    bytes32[] private names = [
        bytes32("open"),
        "openWithPermit",
        "openWithAuthorization",
        "spend",
        "settle",
        "hold",
        "capture",
        "release",
        "refund",
        "revoke",
        "revokeWithSignature",
        "sweep",
        "sweepTo",
        "sweepAtTheEnd",
        "setSubmitter"
    ];

    function setUp() public {
        handler = new Orderly();
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
    Unruly private handler;

    bytes4[] private actions = [
        Unruly.open.selector,
        Unruly.openAgain.selector,
        Unruly.openWithPermit.selector,
        Unruly.openWithAuthorization.selector,
        Unruly.spend.selector,
        Unruly.settle.selector,
        Unruly.hold.selector,
        Unruly.capture.selector,
        Unruly.release.selector,
        Unruly.refund.selector,
        Unruly.revoke.selector,
        Unruly.revokeWithSignature.selector,
        Unruly.sweep.selector,
        Unruly.sweepTo.selector,
        Unruly.setSubmitter.selector,
        Unruly.passTime.selector,
        Unruly.donate.selector,
        Unruly.refuse.selector
    ];
    bytes32[] private names = [
        bytes32("open"),
        "openWithPermit",
        "openWithAuthorization",
        "spend",
        "settle",
        "hold",
        "capture",
        "release",
        "refund",
        "revoke",
        "revokeWithSignature",
        "sweep",
        "sweepTo",
        "setSubmitter"
    ];

    function setUp() public {
        handler = new Unruly();
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
