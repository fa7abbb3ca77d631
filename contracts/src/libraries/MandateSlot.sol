// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Mandate} from "../interfaces/Types.sol";

/// @title MandateSlot
/// @notice Writes a struct of one slot at once. The compiler would write field by field, for 200 gas each.
library MandateSlot {
    function store(Mandate storage slot, Mandate memory mandate) internal {
        uint256 word = mandate.remaining | uint256(mandate.held) << 64 | uint256(mandate.nonceBits) << 128;
        word |= uint256(mandate.nonceBase) << 216 | uint256(mandate.status) << 248;
        assembly ("memory-safe") {
            sstore(slot.slot, word)
        }
    }
}
