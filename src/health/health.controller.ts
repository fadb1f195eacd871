import { Controller, Get, ServiceUnavailableException } from '@nestjs/common';
import { ApiOkResponse, ApiOperation, ApiServiceUnavailableResponse, ApiTags } from '@nestjs/swagger';
import { Readiness } from './readiness.js';

@ApiTags('health')
@Controller('health')
export class HealthController {
  constructor(private readonly readiness: Readiness) {}

  @Get('live')
  @ApiOperation({ operationId: 'live', summary: 'Whether the process answers; asks no database' })
  @ApiOkResponse({ description: 'It does', schema: { example: { status: 'ok' } } })
  live(): { status: 'ok' } {
    return { status: 'ok' };
  }

  @Get('ready')
  @ApiOperation({ operationId: 'ready', summary: 'Whether a write would succeed now; answers within 2 s' })
  @ApiOkResponse({
    description: 'It would; `warning`, when there is one, says what may soon be in the way',
    schema: { example: { status: 'ok' } },
  })
  @ApiServiceUnavailableResponse({ description: 'It would not; detail says why' })
  async ready(): Promise<{ status: 'ok'; warning?: string }> {
    const { fault, warning } = await this.readiness.check();
    if (fault !== null) throw new ServiceUnavailableException(fault);
    return { status: 'ok', ...(warning !== null && { warning }) };
  }
}
