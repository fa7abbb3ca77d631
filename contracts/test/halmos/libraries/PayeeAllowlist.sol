// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {svm} from "contracts/test/halmos/Svm.sol";

/// @notice Stands in for the escrow's library in proofs: any payee may be allowed or not.
library PayeeAllowlist {
    function verify(bytes32, address, bytes32[] calldata) internal view returns (bool) {
        return svm.createBool("allowed");
    }
}
