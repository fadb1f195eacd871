import { ApiProperty, ApiSchema } from '@nestjs/swagger';
import { ArrayNotEmpty, IsOptional, MaxLength } from 'class-validator';
import { IsId, IsIntegerFrom, IsListOf } from '../../http/validation/fields.js';
import { tenantOf } from '../../request/caller.js';
import { type Scope, SCOPES } from '../../request/principal.js';
import type { ApiKeyRecord } from '../domain/api-key.js';
import type { CreateKeyInput, KeyWithText } from '../use-cases/create-key.use-case.js';
import type { RotateKeyInput } from '../use-cases/rotate-key.use-case.js';

const MAX_NAME = 200;
const MAX_SECONDS = 10 * 365 * 24 * 3600;
const DAY_SECONDS = 24 * 3600;

export class CreateKeyRequest {
  @ApiProperty({ maxLength: MAX_NAME, description: 'Who it is for; shown in lists and logs' })
  @IsId()
  @MaxLength(MAX_NAME, { message: `must be at most ${MAX_NAME} characters` })
  name!: string;

  @ApiProperty({ enum: SCOPES, isArray: true })
  @IsListOf(SCOPES)
  @ArrayNotEmpty({ message: 'must not be empty' })
  scopes!: Scope[];

  @ApiProperty({ type: 'integer', required: false, nullable: true, description: 'Absent: it has no end' })
  @IsOptional()
  @IsIntegerFrom(1, MAX_SECONDS)
  expires_in_seconds?: number | null;

  toInput(): CreateKeyInput {
    const { name, scopes, expires_in_seconds: expiresInSeconds = null } = this;
    return { tenant: tenantOf(this), name, scopes, expiresInSeconds };
  }
}

@ApiSchema({ description: 'Nothing is asked for but the tenant, which the key or x-tenant says' })
export class ListKeysRequest {}

export class RevokeKeyRequest {
  @ApiProperty()
  @IsId()
  id!: string;
}

export class RotateKeyRequest extends RevokeKeyRequest {
  @ApiProperty({
    type: 'integer',
    required: false,
    default: DAY_SECONDS,
    description: 'How long the old key works on at least; it ends after that, once the new one was used',
  })
  @IsOptional()
  @IsIntegerFrom(0, MAX_SECONDS)
  grace_seconds?: number | null;

  @ApiProperty({
    type: 'integer',
    required: false,
    nullable: true,
    description: 'Absent: as long as the old one was to last',
  })
  @IsOptional()
  @IsIntegerFrom(1, MAX_SECONDS)
  expires_in_seconds?: number | null;

  toInput(): RotateKeyInput {
    const { id, grace_seconds: grace, expires_in_seconds: expiresInSeconds = null } = this;
    return { id, tenant: tenantOf(this), graceSeconds: grace ?? DAY_SECONDS, expiresInSeconds };
  }
}

/** Everything that is known of a key, but for its text. */
export class KeyResponse {
  @ApiProperty() id!: string;
  @ApiProperty() tenant!: string;
  @ApiProperty() name!: string;
  @ApiProperty({ enum: SCOPES, isArray: true }) scopes!: Scope[];
  @ApiProperty({ type: String, format: 'date-time', nullable: true }) created_at!: Date | null;
  @ApiProperty({ type: String, format: 'date-time', nullable: true }) expires_at!: Date | null;
  @ApiProperty({ type: String, format: 'date-time', nullable: true }) revoked_at!: Date | null;

  static of({ id, tenant, name, scopes, createdAt, expiresAt, revokedAt }: ApiKeyRecord): KeyResponse {
    return { id, tenant, name, scopes, created_at: createdAt, expires_at: expiresAt, revoked_at: revokedAt };
  }
}

export class NewKeyResponse extends KeyResponse {
  @ApiProperty({ description: 'Shown this once' }) key!: string;

  static ofNew({ text, record }: KeyWithText): NewKeyResponse {
    return Object.assign(KeyResponse.of(record), { key: text });
  }
}
