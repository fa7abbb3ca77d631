// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Terms} from "./Types.sol";

/// @title IMandatePurseFactory
/// @notice Makes the purses of one escrow's mandates. A purse's address follows from its terms without `payees`, so it is known
/// before the mandate is, and can be one of the payees that the mandate allows.
interface IMandatePurseFactory {
    /// @notice Makes the purse of these terms, unless it is there. Callable by anyone, before or after the mandate is opened:
    /// a purse is nobody's but its terms'.
    /// @param terms The terms; `payees` is ignored
    /// @return purse Its address
    function create(Terms calldata terms) external returns (address purse);

    /// @notice Where the purse of these terms is, or will be. It can be paid before it is made.
    /// @param terms The terms; `payees` is ignored
    function purseOf(Terms calldata terms) external view returns (address purse);

    /// @notice The code that all purses share.
    function implementation() external view returns (address);
}
