// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Mandate, Status} from "../interfaces/Types.sol";

/// @title MandateSlot
/// @notice Writes several fields of a mandate's slot at once. The compiler would write field by field, for 200 gas each.
library MandateSlot {
    /// @dev Ends the mandate and takes out what remains; all else stays.
    function end(Mandate storage slot) internal returns (uint64 remaining) {
        uint256 word;
        assembly ("memory-safe") {
            word := sload(slot.slot)
        }
        // The lowest 64 bits.
        // forge-lint: disable-next-line(unsafe-typecast)
        remaining = uint64(word);
        word = (word ^ remaining) << 8 >> 8 | uint256(Status.Ended) << 248;
        assembly ("memory-safe") {
            sstore(slot.slot, word)
        }
    }

    function store(Mandate storage slot, Mandate memory mandate) internal {
        uint256 word = mandate.remaining | uint256(mandate.held) << 64 | uint256(mandate.nonceBits) << 128;
        word |= uint256(mandate.nonceBase) << 216 | uint256(mandate.status) << 248;
        assembly ("memory-safe") {
            sstore(slot.slot, word)
        }
    }
}
