// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title EIP712
/// @notice The EIP-712 domain of the escrow, twice: as it was at deployment, and as it is.
/// @dev Signatures are checked under the current chain id, so that after a fork none is valid on both chains. Ids of
/// mandates keep the chain id of deployment: their money must stay within reach on both.
abstract contract EIP712 {
    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("MandateEscrow");
    bytes32 private constant VERSION_HASH = keccak256("1");

    uint256 private immutable DEPLOYMENT_CHAIN_ID;
    bytes32 internal immutable DEPLOYMENT_DOMAIN;

    constructor() {
        DEPLOYMENT_CHAIN_ID = block.chainid;
        DEPLOYMENT_DOMAIN = _buildDomain();
    }

    /// @dev The domain separator for the current chain id.
    function _domain() internal view returns (bytes32) {
        return block.chainid == DEPLOYMENT_CHAIN_ID ? DEPLOYMENT_DOMAIN : _buildDomain();
    }

    function _buildDomain() private view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
    }
}
