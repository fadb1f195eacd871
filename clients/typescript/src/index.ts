export { createCheckpointer } from './create-checkpointer.js';
export {
  DecryptionError,
  EncryptedSerializer,
  type EncryptedSerializerOptions,
} from './encrypted-serializer.js';
export { CheckpointHttpError, type CheckpointHttpErrorInfo, type RequestFault } from './error.js';
export {
  HttpCheckpointSaver,
  type HttpCheckpointSaverOptions,
  type PruneStrategy,
} from './http-checkpoint-saver.js';
export { OtherLanguageError } from './other-language.js';
export type { TransportOptions } from './transport.js';
