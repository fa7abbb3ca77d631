// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MockUSDCProxy} from "../mocks/MockUSDCProxy.sol";
import {EscrowTest} from "../base/EscrowTest.sol";

contract MockUSDCProxyTest is EscrowTest {
    /// @dev The zero address is who calls in an `eth_call` without `from`.
    function test_answersEverybodyButItsAdmin(address caller) public {
        address admin = address(uint160(uint256(keccak256("MockUSDCProxy.admin"))));
        vm.assume(caller != admin);
        vm.prank(caller);
        assertEq(usdc.decimals(), 6);
        vm.prank(address(0));
        assertEq(usdc.decimals(), 6);

        vm.expectRevert(MockUSDCProxy.CallerIsAdmin.selector);
        vm.prank(admin);
        usdc.decimals();
    }
}
