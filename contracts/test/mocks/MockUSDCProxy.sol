// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {MockUSDC} from "./MockUSDC.sol";

/// @title MockUSDCProxy
/// @notice Stands before MockUSDC as Circle's proxy stands before USDC, so that a call costs what it costs there: a look
/// for functions of its own, two slots and a delegatecall. It cannot be upgraded.
contract MockUSDCProxy {
    /// @dev ERC-1967.
    bytes32 private constant IMPLEMENTATION_SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc;
    bytes32 private constant ADMIN_SLOT = 0xb53127684a568b3173ae13b9f8a6016e243e63b6e8ee1178d6a717850b5d6103;

    /// @dev Refused by the proxy, as Circle's admin is. Nobody has its key; and it is not zero, since zero is who calls in an
    /// `eth_call` without `from`.
    address private constant ADMIN = address(uint160(uint256(keccak256("MockUSDCProxy.admin"))));

    constructor(address token) {
        address nobody = ADMIN;
        assembly ("memory-safe") {
            sstore(IMPLEMENTATION_SLOT, token)
            sstore(ADMIN_SLOT, nobody)
        }
        Address.functionDelegateCall(token, abi.encodeCall(MockUSDC.initialize, ()));
    }

    fallback() external {
        require(msg.sender != admin(), "Cannot call fallback function from the proxy admin");
        assembly {
            calldatacopy(0, 0, calldatasize())
            let ok := delegatecall(gas(), sload(IMPLEMENTATION_SLOT), 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(ok) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }

    function admin() public view returns (address account) {
        assembly ("memory-safe") {
            account := sload(ADMIN_SLOT)
        }
    }

    function implementation() public view returns (address account) {
        assembly ("memory-safe") {
            account := sload(IMPLEMENTATION_SLOT)
        }
    }
}
