// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {EscrowTest} from "../../base/EscrowTest.sol";

contract SetSubmitterTest is EscrowTest {
    function test_succeeds_forTheCallerAlone(address caller, address other, address who) public {
        vm.assume(caller != other && caller != guardian && other != guardian);
        vm.prank(caller);
        escrow.setSubmitter(who, true);
        assertTrue(escrow.isSubmitter(caller, who));
        assertFalse(escrow.isSubmitter(other, who));

        vm.prank(other);
        escrow.setSubmitter(who, false);
        assertTrue(escrow.isSubmitter(caller, who));

        vm.prank(caller);
        escrow.setSubmitter(who, false);
        assertFalse(escrow.isSubmitter(caller, who));
    }

    function test_emitsExpectedEvents(address who, bool allowed) public {
        vm.expectEmit(true, true, true, true, address(escrow));
        emit IMandateEscrow.SubmitterSet(guardian, who, allowed);
        vm.prank(guardian);
        escrow.setSubmitter(who, allowed);
    }

    /// @dev The guardian is no submitter unless it says so, and nobody is one by default.
    function test_nobodyIsOneByDefault(address who) public view {
        vm.assume(who != submitter);
        assertFalse(escrow.isSubmitter(guardian, who));
        assertFalse(escrow.isSubmitter(address(0), who));
    }
}
