// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Script} from "forge-std/Script.sol";

/// @title Deploy
/// @notice Deploys MandateEscrow for the token whose address is in TOKEN. On a local chain without TOKEN, deploys a mock
/// of USDC first.
///
/// forge script contracts/script/Deploy.s.sol --rpc-url $RPC_URL --private-key $KEY --broadcast
contract Deploy is Script {
    uint256 private constant LOCAL_CHAIN_ID = 31_337;

    error TokenMissing(uint256 chainId);

    function run() external returns (address token, address escrow) {
        token = vm.envOr("TOKEN", address(0));
        if (token == address(0) && block.chainid != LOCAL_CHAIN_ID) revert TokenMissing(block.chainid);

        vm.startBroadcast();
        if (token == address(0)) {
            address implementation = _create("MockUSDC.sol:MockUSDC", "");
            token = _create("MockUSDCProxy.sol:MockUSDCProxy", abi.encode(implementation));
        }
        escrow = _create("MandateEscrow.sol:MandateEscrow", abi.encode(token));
        vm.stopBroadcast();
    }

    /// @dev From the artifact, so that the escrow is the very bytes that the bindings carry.
    function _create(string memory artifact, bytes memory arguments) private returns (address deployed) {
        bytes memory code = bytes.concat(vm.getCode(artifact), arguments);
        assembly ("memory-safe") {
            deployed := create(0, add(code, 0x20), mload(code))
        }
        require(deployed != address(0), artifact);
    }
}
