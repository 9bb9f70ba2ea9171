// The requests that are open on one connection of the application. They are in the list of the connection that carries
// them over the mesh too, so each knows its place here by a name of its own.
import { SlotList, type Slotted } from "../wire/slot-list.ts";

export interface AppSlotted extends Slotted {
  /** Place in the list of the application's connection, -1 outside of it. */
  appSlot: number;
}

export class AppExchanges<T extends AppSlotted> extends SlotList<T> {
  protected override slotOf(member: T): number {
    return member.appSlot;
  }

  protected override place(member: T, slot: number): void {
    member.appSlot = slot;
  }
}
