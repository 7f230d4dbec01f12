package store

import (
	"bytes"
	"context"
	"errors"
)

// Documents keeps small documents of a store, by kind and name. A document is
// written whole: whatever happens, it is there in its old form or the new one.
// Kinds that hold secrets are sealed where there is a key (see EncryptionKey).
type Documents interface {
	// Load returns a document; nil, nil if there is none.
	Load(ctx context.Context, k Kind, name string) ([]byte, error)
	// Save writes a document; it is safe when it returns nil.
	Save(ctx context.Context, k Kind, name string, content []byte) error
	// Change replaces a document by what f makes of it, in one step over all who
	// share the store. f gets nil where there is none, and may be called more than
	// once; nil, and what it returns unchanged, is not written.
	Change(ctx context.Context, k Kind, name string, f func(old []byte) []byte) error
	// names lists the documents of a kind, in no order.
	names(ctx context.Context, k Kind) ([]string, error)
	// Ready makes sure that the key is the store's, and that secrets from before
	// the key are sealed. Where it is known already it costs nothing.
	Ready(ctx context.Context) error
	// Where is the place of a document, for the operator.
	Where(k Kind, name string) string
	// sealedWith is the key; nil = none.
	sealedWith() EncryptionKey
}

// Kind is a sort of documents.
type Kind struct {
	name   string
	secret bool
}

var (
	TokenDocuments        = Kind{"tokens", true}
	accountStateDocuments = Kind{"standings", false} // of embedded stores
	IdentityDocuments     = Kind{"identities", false}
	// checkDocuments holds one document that reports whether the key is right.
	checkDocuments = Kind{"key", true}
)

const checkName = "check"

// prepareKey is ready's work, for every sort of documents.
func prepareKey(ctx context.Context, d Documents) error {
	check, err := d.Load(ctx, checkDocuments, checkName)
	if err != nil || d.sealedWith() == nil {
		return err
	}
	if check == nil {
		keep := func(old []byte) []byte {
			if old != nil {
				return old
			}
			return []byte("{}")
		}
		// Where another key was first, this is an error.
		if err := d.Change(ctx, checkDocuments, checkName, keep); err != nil {
			return err
		}
	}
	names, err := d.names(ctx, TokenDocuments)
	for _, name := range names {
		unchanged := func(old []byte) []byte { return old }
		err = errors.Join(err, d.Change(ctx, TokenDocuments, name, unchanged))
	}
	return err
}

// openStored is EncryptionKey.open for what may not be there.
func openStored(s EncryptionKey, k Kind, name string, stored []byte, where string) ([]byte, error) {
	if stored == nil {
		return nil, nil
	}
	return s.open(k, name, stored, where)
}

// upToDate reports whether a document need not be written again: it is the same,
// and sealed if it has to be.
func upToDate(s EncryptionKey, k Kind, stored, old, next []byte) bool {
	return next == nil || stored != nil && bytes.Equal(old, next) && isSealed(stored) == (k.secret && s != nil)
}
