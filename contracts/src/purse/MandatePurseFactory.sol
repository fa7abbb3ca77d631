// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IMandateEscrow} from "../interfaces/IMandateEscrow.sol";
import {IMandatePurseFactory} from "../interfaces/IMandatePurseFactory.sol";
import {Terms} from "../interfaces/Types.sol";
import {MandatePurse} from "./MandatePurse.sol";
import {PurseTerms} from "./PurseTerms.sol";

/// @title MandatePurseFactory
/// @notice Purses are ERC-1167 clones with their terms behind the code, made by CREATE2 with a salt of zero.
contract MandatePurseFactory is IMandatePurseFactory {
    bytes32 private constant SALT = 0;

    /// @inheritdoc IMandatePurseFactory
    address public immutable implementation;

    /// @param escrow Whose mandates get purses
    constructor(IMandateEscrow escrow) {
        implementation = address(new MandatePurse(escrow));
    }

    /// @inheritdoc IMandatePurseFactory
    function create(Terms calldata terms) external returns (address purse) {
        bytes memory packed = PurseTerms.pack(terms);
        purse = _purseOf(packed);
        // CREATE2 at a taken address would use up all gas, and whoever comes second wants the same purse.
        if (purse.code.length == 0) purse = Clones.cloneDeterministicWithImmutableArgs(implementation, packed, SALT);
    }

    /// @inheritdoc IMandatePurseFactory
    function purseOf(Terms calldata terms) external view returns (address) {
        return _purseOf(PurseTerms.pack(terms));
    }

    function _purseOf(bytes memory packed) private view returns (address) {
        return Clones.predictDeterministicAddressWithImmutableArgs(implementation, packed, SALT);
    }
}
