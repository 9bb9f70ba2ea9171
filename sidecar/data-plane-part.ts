// What brings requests into the data path beside the mesh port and the application's proxy port.

/** A gateway, or capture: swept, drained and ended with everything else. */
export interface DataPlanePart {
  /** Requests that are under way. */
  readonly busy: number;
  /** @param nowMs monotonic. */
  sweep(nowMs: number): void;
  drain(): void;
  drainIdle(): void;
  destroy(): void;
}
