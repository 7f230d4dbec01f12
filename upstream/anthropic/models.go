package anthropic

// BuiltInModels are today's models of the API (its price list, November 2026),
// for GET /v1/models where no account names its own.
var BuiltInModels = []string{
	"claude-fable-5", "claude-fable-5-1", "claude-fable-5-2",
	"claude-haiku-4-5-20251001", "claude-haiku-5-5",
	"claude-mythos-5", "claude-mythos-5-1", "claude-mythos-5-2",
	"claude-opus-4-5-20251101", "claude-opus-4-6", "claude-opus-4-7", "claude-opus-4-8", "claude-opus-5", "claude-opus-5-5",
	"claude-sonnet-4-5-20250929", "claude-sonnet-4-6", "claude-sonnet-5", "claude-sonnet-5-5",
}
