// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IMandateEscrow} from "../interfaces/IMandateEscrow.sol";

/// @title Signatures
/// @notice Whether an operator or an agent signed a digest: with its key, or else as a wallet.
/// @dev The key counts first, whatever code the account has: the root key of an EIP-7702 account stays valid here.
library Signatures {
    /// @dev Gas that a wallet's check may use.
    uint256 private constant WALLET_GAS = 100_000;

    /// @dev Pays for reaching the call, so that the wallet gets all of WALLET_GAS.
    uint256 private constant RESERVE = 10_000;

    /// @param signer Who must have signed. Must not be address(0): ecrecover returns 0 for invalid signatures; opening refuses it
    /// @param digest What was signed
    /// @param r First half of the ERC-2098 signature
    /// @param vs Second half; high-s values are refused (EIP-2)
    /// @param signature For an ERC-1271 wallet; if empty, the wallet is not called
    function isValid(address signer, bytes32 digest, bytes32 r, bytes32 vs, bytes calldata signature)
        internal
        view
        returns (bool)
    {
        // Why nobody is recovered does not matter.
        // slither-disable-next-line unused-return
        (address recovered,,) = ECDSA.tryRecover(digest, r, vs);
        return recovered == signer || (signature.length != 0 && _accepts(signer, digest, signature));
    }

    /// @param signer Who must have signed. Must not be address(0): ecrecover returns 0 for invalid signatures; opening refuses it
    /// @param digest What was signed
    /// @param signature 65 bytes of a key, high-s values refused; or what an ERC-1271 wallet takes, not empty
    function isValid(address signer, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        // Why nobody is recovered does not matter.
        // slither-disable-next-line unused-return
        (address recovered,,) = ECDSA.tryRecoverCalldata(digest, signature);
        return recovered == signer || (signature.length != 0 && _accepts(signer, digest, signature));
    }

    /// @dev Makes a static call with bounded gas, and reads one word of the answer. A caller who sends too little
    /// gas must not make a good signature look bad, so that reverts (EIP-150 keeps back one 64th of what is left).
    function _accepts(address wallet, bytes32 digest, bytes calldata signature) private view returns (bool yes) {
        if (wallet.code.length == 0) return false;
        bytes memory question = abi.encodeCall(IERC1271.isValidSignature, (digest, signature));

        uint256 available = gasleft() * 63 / 64;
        if (available < WALLET_GAS + RESERVE) revert IMandateEscrow.GasTooLow(available, WALLET_GAS + RESERVE);

        bytes32 magic = bytes32(IERC1271.isValidSignature.selector);
        assembly ("memory-safe") {
            let answered := staticcall(WALLET_GAS, wallet, add(question, 0x20), mload(question), 0x00, 0x20)
            yes := and(and(answered, gt(returndatasize(), 0x1f)), eq(mload(0x00), magic))
        }
    }
}
