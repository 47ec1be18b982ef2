// Package cause names why Configuration Integrity refused to go on.
//
// Each failure carries exactly one [Code]. Codes are stable: a product may store
// them, match on them and document them. [Code.Text] and [Code.Remedy] are what
// an operator reads; [Of] finds the code in any error of package integrity and
// of its key wrappers.
package cause
