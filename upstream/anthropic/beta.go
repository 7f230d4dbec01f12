package anthropic

import "strings"

// Values of anthropic-beta that the gateway itself may add.
const (
	betaClaudeCode  = "claude-code-20250219"
	betaOAuth       = "oauth-2025-04-20"
	betaInterleaved = "interleaved-thinking-2025-05-14"
	betaFineTools   = "fine-grained-tool-streaming-2025-05-14"
)

// defaultVersion is the anthropic-version of clients that send none; later
// versions refuse beta values that have become part of them.
const defaultVersion = "2023-06-01"

// bearerBeta is the anthropic-beta of a request with an OAuth or setup token,
// made from what the client sent.
func bearerBeta(sent, model, version string) string {
	if sent == "" {
		switch {
		case version > defaultVersion: // both are dates
			return betaOAuth
		case strings.Contains(model, "haiku"):
			return betaOAuth + "," + betaInterleaved
		}
		return betaClaudeCode + "," + betaOAuth + "," + betaInterleaved + "," + betaFineTools
	}
	after := -1 // the end of claude-code's value
	for start := 0; start <= len(sent); {
		end := start + strings.IndexByte(sent[start:]+",", ',')
		switch strings.TrimSpace(sent[start:end]) {
		case betaOAuth:
			return sent
		case betaClaudeCode:
			after = end
		}
		start = end + 1
	}
	if after >= 0 {
		return sent[:after] + "," + betaOAuth + sent[after:]
	}
	return betaOAuth + "," + sent
}

// keyBeta is the anthropic-beta that inject_beta adds to a request with an API
// key whose client sent none.
func keyBeta(model string) string {
	if strings.Contains(model, "haiku") {
		return betaInterleaved
	}
	return betaClaudeCode + "," + betaInterleaved + "," + betaFineTools
}
