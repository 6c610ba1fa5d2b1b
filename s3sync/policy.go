package s3sync

import "strings"

// BucketPolicy returns a policy for a bucket, as Amazon takes it. The mirror's key can create
// objects and nothing else, not even overwrite one; the prune's can delete and make manifests.
func BucketPolicy(bucket, prefix string) string { return fill(policy, bucket, prefix) }

// BucketLifecycle returns the rules for the life cycle of a bucket: uploads of parts that were
// cut short go away. There must be none that expires versions: manifests may name them.
func BucketLifecycle(bucket, prefix string) string { return fill(lifecycle, bucket, prefix) }

func fill(text, bucket, prefix string) string {
	return strings.NewReplacer("BUCKET", bucket, "PREFIX", prefix).Replace(text)
}

const policy = `{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Sid": "MirrorAndPruneRead",
      "Effect": "Allow",
      "Principal": {"AWS": ["arn:aws:iam::ACCOUNT:user/kedge-mirror", "arn:aws:iam::ACCOUNT:user/kedge-prune"]},
      "Action": ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"],
      "Resource": "arn:aws:s3:::BUCKET/PREFIX*"
    },
    {
      "Sid": "MirrorAndPruneList",
      "Effect": "Allow",
      "Principal": {"AWS": ["arn:aws:iam::ACCOUNT:user/kedge-mirror", "arn:aws:iam::ACCOUNT:user/kedge-prune"]},
      "Action": ["s3:ListBucket", "s3:ListBucketVersions"],
      "Resource": "arn:aws:s3:::BUCKET"
    },
    {
      "Sid": "MirrorCreates",
      "Effect": "Allow",
      "Principal": {"AWS": "arn:aws:iam::ACCOUNT:user/kedge-mirror"},
      "Action": ["s3:PutObject", "s3:PutObjectRetention", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"],
      "Resource": "arn:aws:s3:::BUCKET/PREFIX*"
    },
    {
      "Sid": "PruneMakesManifests",
      "Effect": "Allow",
      "Principal": {"AWS": "arn:aws:iam::ACCOUNT:user/kedge-prune"},
      "Action": "s3:PutObject",
      "Resource": ["arn:aws:s3:::BUCKET/PREFIX*manifests/*", "arn:aws:s3:::BUCKET/PREFIX*bases/*", "arn:aws:s3:::BUCKET/PREFIX*probe"]
    },
    {
      "Sid": "PruneDeletes",
      "Effect": "Allow",
      "Principal": {"AWS": "arn:aws:iam::ACCOUNT:user/kedge-prune"},
      "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
      "Resource": "arn:aws:s3:::BUCKET/PREFIX*"
    },
    {
      "Sid": "NobodyOverwrites",
      "Effect": "Deny",
      "Principal": "*",
      "Action": "s3:PutObject",
      "Resource": "arn:aws:s3:::BUCKET/PREFIX*",
      "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}
    }
  ]
}
`

const lifecycle = `{
  "Rules": [
    {
      "ID": "kedge-incomplete-uploads",
      "Status": "Enabled",
      "Filter": {"Prefix": "PREFIX"},
      "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2}
    }
  ]
}
`
