// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {svm} from "contracts/test/halmos/Svm.sol";

/// @notice Stands in for the escrow's library in proofs: any signature may be good or bad.
library Signatures {
    uint256 internal constant ROW_GAS = 300_000;
    uint256 internal constant ALL_GAS = type(uint256).max;

    function isByKey(address, bytes32, bytes32, bytes32) internal view returns (bool) {
        return svm.createBool("signed");
    }

    function isValid(address, bytes32, bytes calldata) internal view returns (bool) {
        return svm.createBool("signed");
    }

    function isByWallet(address, bytes32, bytes calldata, uint256) internal view returns (bool) {
        return svm.createBool("accepted");
    }
}
