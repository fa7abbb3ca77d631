// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Terms} from "contracts/src/interfaces/Types.sol";
import {svm} from "contracts/test/halmos/Svm.sol";

/// @notice Stands in for the escrow's library in proofs: any amount may fit the window or not.
library RollingWindow {
    function add(uint256, Terms calldata, uint64) internal view returns (uint256) {
        return svm.createUint256("window");
    }
}
