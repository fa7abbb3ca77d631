// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice What Halmos is asked for. Each answer is a value that it knows nothing about.
interface Svm {
    function enableSymbolicStorage(address account) external;
    function createBytes(uint256 length, string calldata name) external view returns (bytes memory);
    function createBool(string calldata name) external view returns (bool);
    function createUint256(string calldata name) external view returns (uint256);
}

Svm constant svm = Svm(address(uint160(uint256(keccak256("svm cheat code")))));
