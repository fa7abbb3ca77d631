// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MockUSDC} from "../mocks/MockUSDC.sol";
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

        vm.expectRevert("Cannot call fallback function from the proxy admin");
        vm.prank(admin);
        usdc.decimals();
        assertEq(MockUSDCProxy(address(usdc)).admin(), admin);
    }

    function test_tellsItsImplementation() public {
        address token = address(new MockUSDC());
        assertEq(new MockUSDCProxy(token).implementation(), token);
    }
}
