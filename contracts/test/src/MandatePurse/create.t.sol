// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {IMandateEscrow} from "../../../src/interfaces/IMandateEscrow.sol";
import {IMandatePurse} from "../../../src/interfaces/IMandatePurse.sol";
import {IMandatePurseFactory} from "../../../src/interfaces/IMandatePurseFactory.sol";
import {Terms} from "../../../src/interfaces/Types.sol";
import {PurseTest} from "../../base/PurseTest.sol";

contract CreateTest is PurseTest {
    /// @dev By the words of ERC-1167 and EIP-1014, as anyone can compute it offline.
    function _predict(Terms memory terms_) private view returns (address) {
        bytes memory packed = bytes.concat(
            abi.encodePacked(terms_.operator, terms_.agent, terms_.guardian, terms_.cap, terms_.perPayment),
            abi.encodePacked(terms_.windowCap, terms_.window, terms_.start, terms_.expiry, terms_.captureEnd),
            abi.encodePacked(terms_.intent, terms_.refundsRestoreBudget)
        );
        assertEq(packed.length, 136);
        bytes memory code = abi.encodePacked(
            hex"363d3d373d3d3d363d73", factory.implementation(), hex"5af43d82803e903d91602b57fd5bf3", packed
        );
        bytes memory creation = abi.encodePacked(hex"61", uint16(code.length), hex"3d81600a3d39f3", code);
        bytes32 hash = keccak256(abi.encodePacked(hex"ff", factory, bytes32(0), keccak256(creation)));
        return address(uint160(uint256(hash)));
    }

    function test_succeeds_fromAnyone_atTheAddressThatTheTermsDetermine(Terms memory terms_, address caller) public {
        address predicted = _predict(terms_);
        assertEq(factory.purseOf(terms_), predicted);
        assertEq(predicted.code.length, 0);
        vm.prank(caller);
        assertEq(factory.create(terms_), predicted);
        assertEq(factory.purseOf(terms_), predicted);
        assertEq(predicted.code.length, 45 + 136);
    }

    /// @dev The purse gives back every term as it was given, and the payees that it is asked with.
    function test_keepsTheTerms(Terms memory terms_, bytes32 payees) public {
        purse = IMandatePurse(factory.create(terms_));
        terms_.payees = payees;
        assertEq(keccak256(abi.encode(purse.terms(payees))), keccak256(abi.encode(terms_)));
        assertEq(address(purse.escrow()), address(escrow));
        assertEq(address(purse.token()), address(usdc));
    }

    function test_succeeds_again_withTheSamePurse() public {
        bytes32 code = address(purse).codehash;
        vm.prank(stranger);
        assertEq(factory.create(terms), address(purse));
        assertEq(address(purse).codehash, code);
        assertEq(usdc.balanceOf(address(purse)), FLOAT);
        _assertYes(_charge(5));
    }

    /// @dev Whoever comes second does not pay for a collision.
    function test_costsLittle_theSecondTime() public {
        uint256 before = gasleft();
        factory.create(terms);
        assertLt(before - gasleft(), 40_000); // most of it for reading the terms here
    }

    function test_ignoresThePayees(Terms memory terms_, bytes32 payees) public {
        address purse_ = factory.create(terms_);
        terms_.payees = payees;
        assertEq(factory.purseOf(terms_), purse_);
        assertEq(factory.create(terms_), purse_);
    }

    function test_movesWithEveryOtherTerm() public {
        Terms[12] memory others;
        for (uint256 i = 0; i < others.length; ++i) {
            others[i] = abi.decode(abi.encode(terms), (Terms));
        }
        others[0].operator = stranger;
        others[1].agent = stranger;
        others[2].guardian = stranger;
        others[3].cap += 1;
        others[4].perPayment += 1;
        others[5].windowCap += 1;
        others[6].window += 1;
        others[7].start += 1;
        others[8].expiry += 1;
        others[9].captureEnd += 1;
        others[10].intent = "another";
        others[11].refundsRestoreBudget = false;
        for (uint256 i = 0; i < others.length; ++i) {
            address purse_ = factory.create(others[i]);
            assertTrue(purse_ != address(purse));
            for (uint256 j = 0; j < i; ++j) {
                assertTrue(purse_ != factory.purseOf(others[j]));
            }
        }
    }

    /// @dev A factory of the same escrow makes other purses; one of another escrow, too.
    function test_movesWithTheFactory() public {
        IMandatePurseFactory other =
            IMandatePurseFactory(deployCode("MandatePurseFactory.sol:MandatePurseFactory", abi.encode(escrow)));
        assertTrue(other.purseOf(terms) != address(purse));
        assertTrue(other.implementation() != factory.implementation());
    }

    function test_succeeds_beforeTheMandate_andServesIt() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "early";
        address purse_ = factory.create(terms_);
        _start(terms_);
        assertEq(address(purse), purse_);
        _settleCharge(_charge(5));
        assertEq(usdc.balanceOf(payee), 5);
    }

    /// @dev A mandate can pay a purse that nobody has made yet; nothing is lost meanwhile.
    function test_succeeds_afterItWasPaid() public {
        Terms memory terms_ = _purseTerms();
        terms_.intent = "paid before";
        address purse_ = factory.purseOf(terms_);
        terms_.payees = _pair(_leaf(purse_), _leaf(payee));
        terms = terms_;
        purse = IMandatePurse(purse_);
        id = _open(terms_);
        _topUp(9, 0);
        assertEq(purse_.code.length, 0);
        factory.create(terms_);
        _settleCharge(_charge(9));
        assertEq(usdc.balanceOf(payee), 9);
    }

    function test_reverts_whenAFieldHasDirtyBits() public {
        bytes memory call = abi.encodeCall(factory.create, (terms));
        // Bytes before the fields that are narrower than a word: all but payees (10) and intent (11).
        for (uint256 field = 0; field < 13; ++field) {
            if (field == 10 || field == 11) continue;
            call[4 + 32 * field] = 0x01;
            (bool ok,) = address(factory).call(call);
            assertFalse(ok);
            call[4 + 32 * field] = 0x00;
        }
        (bool clean,) = address(factory).call(call);
        assertTrue(clean);
    }

    /// @dev Nothing can be set in the code that all share, and it has nothing: whoever calls it finds no mandate.
    function test_implementation_isNobodysPurse(bytes32 payees) public {
        IMandatePurse shared = IMandatePurse(factory.implementation());
        assertTrue(address(shared) != address(purse));
        assertEq(Clones.fetchCloneArgs(address(purse)).length, 136);
        vm.expectRevert();
        vm.prank(submitter);
        shared.giveBack(payees, 5, "");
        assertEq(usdc.allowance(address(shared), address(escrow)), 0);
    }

    /// @dev An escrow that is none.
    function test_reverts_whenTheEscrowHasNoToken() public {
        bytes memory code = abi.encodePacked(
            vm.getCode("MandatePurseFactory.sol:MandatePurseFactory"), abi.encode(IMandateEscrow(stranger))
        );
        address deployed;
        assembly ("memory-safe") {
            deployed := create(0, add(code, 0x20), mload(code))
        }
        assertEq(deployed, address(0));
    }
}
