// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title IUSDC
/// @notice The part of Circle's FiatTokenV2_2 that the escrow calls.
interface IUSDC is IERC20 {
    /// @notice 6, as the escrow sees to when it is deployed.
    function decimals() external view returns (uint8);

    /// @notice Sets an allowance by the owner's signature (EIP-2612).
    function permit(address owner, address spender, uint256 value, uint256 deadline, bytes memory signature) external;

    /// @notice Pulls a signed amount to the caller (EIP-3009). Only the payee, `to`, may call it, so nobody can take the
    /// authorization elsewhere.
    /// @param from Payer and signer; an account with code must answer ERC-1271
    /// @param to Payee, and necessarily the caller
    /// @param value Amount
    /// @param validAfter Valid strictly after this time
    /// @param validBefore Valid strictly before this time
    /// @param nonce Unique per payer
    /// @param signature The payer's signature over all of the above
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;
}
