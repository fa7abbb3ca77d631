// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MandateChecks} from "../../src/MandateChecks.sol";
import {Group, Hold, Payment, Row, Terms} from "../../src/interfaces/Types.sol";

/// @dev The escrow's state, constructor and views without its verbs, which alone need the IR pipeline. So a test gets them
/// as the legacy pipeline compiles them.
contract ChecksAlone is MandateChecks {
    constructor(address token_) MandateChecks(token_) {}

    function open(Terms calldata) external pure returns (bytes32) {}
    function openWithPermit(Terms calldata, uint256, bytes calldata, bytes calldata) external pure returns (bytes32) {}
    function openWithAuthorization(Terms calldata, uint256, uint256, bytes calldata) external pure returns (bytes32) {}
    function spend(Terms calldata, Payment calldata) external pure {}
    function spend(Terms calldata, Payment calldata, bytes32[] calldata, bytes calldata) external pure {}
    function settle(Group[] calldata, bytes32[][] calldata, bytes[] calldata) external pure returns (uint256) {}
    function settleTo(address, Row[] calldata, bytes32[][] calldata, bytes[] calldata)
        external
        pure
        returns (uint256)
    {}
    function hold(Terms calldata, Hold calldata) external pure {}
    function hold(Terms calldata, Hold calldata, bytes32[] calldata, bytes calldata) external pure {}
    function capture(Terms calldata, uint32, uint64, uint64, bool) external pure {}
    function release(Terms calldata, uint32) external pure {}
    function refund(Terms calldata, uint64, bytes32) external pure {}
    function revoke(Terms calldata) external pure {}
    function revokeWithSignature(Terms calldata, bytes calldata) external pure {}
    function sweep(Terms calldata) external pure returns (uint256) {}
    function sweepTo(Terms calldata, address, uint40, bytes calldata) external pure returns (uint256) {}
    function roll(Terms calldata, Terms calldata, uint64, bytes calldata) external pure returns (bytes32) {}
    function setSubmitter(address, bool) external pure {}
}
