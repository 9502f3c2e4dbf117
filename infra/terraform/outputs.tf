output "bucket" {
  description = "`bucket:` of dropmill.yaml."
  value       = "s3://${aws_s3_bucket.this["drops"].bucket}${var.prefix == "" ? "" : "/${trimsuffix(var.prefix, "/")}"}"
}

output "lake" {
  description = "`lake:` of dropmill.yaml."
  value       = "s3://${aws_s3_bucket.this["lake"].bucket}"
}

output "queue_url" {
  description = "`sources.sqs.queue_url` of dropmill.yaml."
  value       = aws_sqs_queue.events.url
}

output "dead_letter_url" {
  description = "`sources.sqs.dead_letter_url` of dropmill.yaml."
  value       = aws_sqs_queue.dead_letters.url
}

output "policy_arn" {
  description = "For roles that are made elsewhere."
  value       = aws_iam_policy.service.arn
}

output "role_arn" {
  description = "The annotation eks.amazonaws.com/role-arn of the service account; empty without an OIDC provider."
  value       = one(aws_iam_role.service[*].arn)
}
