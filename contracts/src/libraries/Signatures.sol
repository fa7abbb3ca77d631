// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IMandateEscrow} from "../interfaces/IMandateEscrow.sol";

/// @title Signatures
/// @notice Whether an operator or an agent signed a digest: with its key, or else as a wallet.
/// @dev The key counts first, whatever code the account has: the root key of an EIP-7702 account stays valid here.
///
/// A signer must not be address(0): ecrecover returns 0 for invalid signatures. Opening refuses such operators and agents.
library Signatures {
    /// @dev Gas that a wallet may use where others would pay for it: in a row of a batch. A row costs its batch at most this
    /// and some 10,000 gas more. No wallet depends on it, since whatever it takes, a call of its own can have.
    uint256 internal constant ROW_GAS = 300_000;

    /// @dev As much as the call has: it carries one message, and who sends it pays.
    uint256 internal constant ALL_GAS = type(uint256).max;

    /// @dev What must be at hand, so that a wallet gets at least ROW_GAS; the rest pays for reaching it.
    uint256 private constant LEAST_GAS = ROW_GAS + 10_000;

    /// @param signer Who must have signed
    /// @param digest What was signed
    /// @param r First half of the ERC-2098 signature
    /// @param vs Second half; high-s values are refused (EIP-2)
    function isByKey(address signer, bytes32 digest, bytes32 r, bytes32 vs) internal pure returns (bool) {
        // Why nobody is recovered does not matter.
        // slither-disable-next-line unused-return
        (address recovered,,) = ECDSA.tryRecover(digest, r, vs);
        return recovered == signer;
    }

    /// @param signer Who must have signed, in a call that carries nothing else
    /// @param digest What was signed
    /// @param signature 65 bytes of a key, high-s values refused; or what an ERC-1271 wallet takes, not empty
    function isValid(address signer, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        // Why nobody is recovered does not matter.
        // slither-disable-next-line unused-return
        (address recovered,,) = ECDSA.tryRecoverCalldata(digest, signature);
        return recovered == signer || (signature.length != 0 && isByWallet(signer, digest, signature, ALL_GAS));
    }

    /// @notice Makes a static call (ERC-1271) and reads one word of the answer.
    /// @dev A caller who sends too little gas must not make a good signature look bad, so that reverts (EIP-150 keeps back one
    /// 64th of what is left). A wallet that takes more than ROW_GAS is told apart from one that refuses only by more gas.
    /// @param wallet Who must have signed; an account without code has not
    /// @param digest What was signed
    /// @param signature What the wallet takes
    /// @param most Gas that it may use
    function isByWallet(address wallet, bytes32 digest, bytes calldata signature, uint256 most)
        internal
        view
        returns (bool yes)
    {
        if (wallet.code.length == 0) return false;
        bytes memory question = abi.encodeCall(IERC1271.isValidSignature, (digest, signature));

        uint256 available = gasleft() * 63 / 64;
        if (available < LEAST_GAS) revert IMandateEscrow.GasTooLow(available, LEAST_GAS);

        bytes32 magic = bytes32(IERC1271.isValidSignature.selector);
        assembly ("memory-safe") {
            let answered := staticcall(most, wallet, add(question, 0x20), mload(question), 0x00, 0x20)
            yes := and(and(answered, gt(returndatasize(), 0x1f)), eq(mload(0x00), magic))
        }
    }
}
